// The loss of class balance in one call: the log odds against each row's index, summed by class within each pool of
// `size` rows, and the logs of one plus these sums, added up: of each pool, or divided by the units of all.
#pragma once
#include "index_odds.h"
#include "units.h"

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

// Turns the rows' log odds, with their weights, into what flows back to them from the value, which it returns with the
// number of logs that hold something, by weight. Where the log odds are infinite nothing is to flow back to the scores.
static OfPool logs_of_pool(
    const int64_t* index, const float* log_weight, const float* class_weight, int64_t begin, int64_t end,
    ClassSums& sums, float* slopes) {
    const auto ignored = [&](int64_t i) { return log_weight && log_weight[i] == -INF; };
    for (int64_t i = begin; i < end; ++i) {
        slopes[i] = ignored(i) ? -INF : log_weight ? slopes[i] + log_weight[i] : slopes[i];
        if (!ignored(i)) sums.add_largest(index[i], slopes[i]);
    }
    for (const int64_t of : sums.classes) {
        sums.total[of] = 0.0;
        if (std::isinf(sums.most[of])) sums.most[of] = 0.0f;  // infinities then go their own way through exp
    }
    for (int64_t i = begin; i < end; ++i)
        if (!ignored(i)) slopes[i] -= sums.most[index[i]];
    write_row(end - begin, slopes + begin, slopes + end, [row = Row{slopes + begin, slopes + end}](int64_t k, int n) {
        return exponential(row(k, n, 0.0f)); });
    for (int64_t i = begin; i < end; ++i)
        if (!ignored(i)) sums.total[index[i]] += slopes[i];
    OfPool of_pool;
    for (const int64_t of : sums.classes) {
        const double weight = class_weight ? class_weight[of] : 1.0;
        const LogMass log_mass(sums.most[of], sums.total[of]);
        of_pool.add(log_mass.value, weight, weight, sums.total[of] > 0.0 && sums.most[of] > 0.5f * LOWEST);
        sums.total[of] = weight * log_mass.slope;
    }
    for (int64_t i = begin; i < end; ++i) {
        const double factor = ignored(i) ? 0.0 : sums.total[index[i]];
        slopes[i] = factor == 0.0 ? 0.0f : float(factor * slopes[i]);
    }
    sums.clear();
    return of_pool;
}

// Whether each index is in range and not the one of rows to leave out; counts them by class, where counts are asked for.
static bool are_plain(const int64_t* index, int64_t rows, int64_t classes, int64_t ignored, double* counts) {
    if (counts) std::fill(counts, counts + classes, 0.0);
    for (int64_t i = 0; i < rows; ++i) {
        if (index[i] < 0 || index[i] >= classes || index[i] == ignored) return false;
        if (counts) counts[index[i]] += 1.0;
    }
    return true;
}

// Returns 1, and nothing else, where the indices are to be looked at and one is not plain.
// `result` is the value of each pool or, with `is_mean`, that of all. Kept are what flows back from there to the log odds
// of each row, two numbers of each row of theirs, and 1 / the units.
extern "C" int64_t equilog_index_logs_forward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* log_weight, const float* class_weight, int64_t size, int64_t is_mean,
    double units, const double* samples, double samples_of_all, int64_t look, int64_t ignored, double* counts,
    float* result, float* kept, int64_t threads) try {
    if (look && !are_plain(index, rows, classes, ignored, counts)) return 1;
    float *const slopes = kept, *const peak = kept + rows, *const inverse = kept + 2 * rows;
    const int64_t code = equilog_index_odds_forward(
        z, stride, rows, classes, shift, scale, index, slopes, peak, inverse, threads);
    if (code != 0) return code;
    Mean mean({units, samples, samples_of_all}, threads);
    in_parallel((rows + size - 1) / size, size, threads, [&](int64_t first, int64_t last, int64_t worker) {
        ClassSums sums(classes);
        for (int64_t pool = first; pool < last; ++pool) {
            const int64_t begin = pool * size, end = std::min(begin + size, rows);
            const OfPool of_pool = logs_of_pool(index, log_weight, class_weight, begin, end, sums, slopes);
            if (is_mean) mean.add(worker, pool, of_pool);
            else result[pool] = float(of_pool.value);
        }
    });
    if (is_mean) mean.write(result, kept + 3 * rows);
    return 0;
} catch (...) {
    return failure();
}

// The gradient of the scores from what flows back to each pool's value, or to the mean of all.
extern "C" int64_t equilog_index_logs_backward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* kept, int64_t is_mean, const float* upstream, int64_t size, float* gradient,
    int64_t threads) try {
    const float *const slopes = kept, *const peak = kept + rows, *const inverse = kept + 2 * rows;
    const Shift added(shift, classes);
    const Scores scores{{z, stride, rows, classes}, added.at(), float(scale)};
    const Flow flow(upstream, is_mean ? kept + 3 * rows : nullptr);
    odds_gradient(
        scores, index, peak, inverse, [=](int64_t i) { return flow(i / size) * slopes[i]; }, gradient, threads);
    return 0;
} catch (...) {
    return failure();
}
