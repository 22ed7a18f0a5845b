// The loss of class balance in one call: the log odds against each row's index, summed by class within each pool of
// `size` rows, and the logs of one plus these sums, added up.
#pragma once
#include "index_odds.h"

// What the rows of one pool add up to, by class; only the classes that it has are touched.
struct ClassSums {
    std::vector<float> most;
    std::vector<double> total;
    std::vector<int64_t> classes;
    explicit ClassSums(int64_t count) : most(count, -INF), total(count, 0.0) {}
    void add_largest(int64_t of, float term) {
        if (most[of] == -INF && total[of] == 0.0) {
            classes.push_back(of);
            total[of] = -1.0;  // seen
        }
        most[of] = greater(most[of], term);
    }
    void clear() {
        for (const int64_t of : classes) most[of] = -INF, total[of] = 0.0;
        classes.clear();
    }
};

static inline double log_one_plus_exp(double x) { return x > 40.0 ? x : std::log1p(std::exp(x)); }

// Turns the rows' log odds, with their weights, into what flows back to them from the value, which it returns.
static double logs_of_pool(
    const int64_t* index, const float* log_weight, const float* class_weight, int64_t begin, int64_t end,
    ClassSums& sums, float* slopes) {
    const auto term = [&](int64_t i) { return log_weight ? slopes[i] + log_weight[i] : slopes[i]; };
    const auto ignored = [&](int64_t i) { return log_weight && log_weight[i] == -INF; };
    for (int64_t i = begin; i < end; ++i)
        if (!ignored(i)) sums.add_largest(index[i], term(i));
    for (const int64_t of : sums.classes) {
        sums.total[of] = 0.0;
        if (std::isinf(sums.most[of])) sums.most[of] = 0.0f;  // infinities then go their own way through exp
    }
    for (int64_t i = begin; i < end; ++i)
        if (!ignored(i)) sums.total[index[i]] += std::exp(double(term(i)) - sums.most[index[i]]);
    double value = 0.0;
    for (const int64_t of : sums.classes) {
        const double log_mass = log_one_plus_exp(std::log(sums.total[of]) + sums.most[of]);
        const double weight = class_weight ? class_weight[of] : 1.0;
        value += weight == 0.0 ? 0.0 : weight * log_mass;
        sums.total[of] = log_mass;
    }
    for (int64_t i = begin; i < end; ++i) {
        const double weight = class_weight ? class_weight[index[i]] : 1.0;
        const bool is_constant = ignored(i) || std::isinf(slopes[i]) || weight == 0.0;
        slopes[i] = is_constant ? 0.0f : float(weight * std::exp(double(term(i)) - sums.total[index[i]]));
    }
    sums.clear();
    return value;
}

// `slopes` are what flows back to the log odds of each row from its pool's value.
extern "C" int64_t equilog_index_logs_forward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* log_weight, const float* class_weight, int64_t size, float* values,
    float* slopes, float* peak, float* inverse, int64_t threads) try {
    const int64_t code = equilog_index_odds_forward(
        z, stride, rows, classes, shift, scale, index, slopes, peak, inverse, threads);
    if (code != 0) return code;
    in_parallel((rows + size - 1) / size, size, threads, [=](int64_t first, int64_t last, int64_t) {
        ClassSums sums(classes);
        for (int64_t pool = first; pool < last; ++pool) {
            const int64_t begin = pool * size, end = std::min(begin + size, rows);
            values[pool] = float(logs_of_pool(index, log_weight, class_weight, begin, end, sums, slopes));
        }
    });
    return 0;
} catch (...) {
    return failure();
}

// The gradient of the scores from what flows back to each pool's value.
extern "C" int64_t equilog_index_logs_backward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* peak, const float* inverse, const float* slopes, const float* upstream,
    int64_t size, float* gradient, int64_t threads) try {
    const Scores scores{{z, stride, rows, classes}, shift, float(scale)};
    const auto flow = [=](int64_t i) { return upstream[i / size] * slopes[i]; };
    odds_gradient(scores, index, peak, inverse, flow, gradient, threads);
    return 0;
} catch (...) {
    return failure();
}
