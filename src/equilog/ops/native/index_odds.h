// The log odds against each row's class index, and the gradient of the scores.
#pragma once
#include "numbers.h"

// The largest score of the other classes, and the sum of their exponentials relative to it.
static inline void sum_of_others(Scores::Line z, int64_t classes, int32_t chosen, float& most, float& total) {
    // The place of the index holds the least number, so that the largest is finite even where nothing else is left.
    const auto others = [=](Floats values, int64_t k, float place) {
        return numbered() == chosen - int32_t(k) ? all(place) : values;
    };
    most = fold(LOWEST, 0, classes, [&](Floats m, int64_t k, int n) {
        return greater(m, others(z(k, n, LOWEST), k, LOWEST)); }, greater);
    total = fold(0.0f, 0, classes, [&](Floats s, int64_t k, int n) {
        return s + exponential(others(z(k, n, -INF) - most, k, -INF)); }, add);
}

// The same of as many rows as a vector has lanes, a row in each: so few classes would leave the vectors half empty.
constexpr int64_t FEW_CLASSES = 32;
static inline void sums_of_others(
    const Scores& scores, int64_t begin, int64_t end, const int64_t* index, float* peak, float* totals) {
    float table[FEW_CLASSES * WIDTH] = {};
    for (int64_t i = begin; i < end; i += WIDTH) {
        const int count = int(std::min(end - i, int64_t{WIDTH}));
        Ints chosen{};
        for (int row = 0; row < count; ++row) {
            const Scores::Line line = scores[i + row];
            for (int64_t k = 0; k < scores.columns; ++k) table[k * WIDTH + row] = line[k];
            chosen[row] = int32_t(index[i + row]);
        }
        Floats most = all(LOWEST), total{};
        for (int64_t k = 0; k < scores.columns; ++k)
            most = greater(most, chosen == int32_t(k) ? all(LOWEST) : load(table + k * WIDTH));
        for (int64_t k = 0; k < scores.columns; ++k)
            total += exponential(chosen == int32_t(k) ? all(-INF) : load(table + k * WIDTH) - most);
        std::memcpy(peak + i, &most, 4 * count);
        std::memcpy(totals + i, &total, 4 * count);
    }
}

static inline float log_odds_of(
    Scores::Line z, int64_t classes, int64_t chosen, float most, float total, float log_total) {
    const float score = z[chosen];
    if (std::isnan(total)) {  // one of the scores, or infinity less infinity
        bool is_number = !std::isnan(score);
        for (int64_t k = 0; k < classes; ++k) is_number = is_number && !std::isnan(z[k]);
        return is_number ? INF : NOT_A_NUMBER;
    }
    if (score == -INF) return INF;
    return total == 0.0f ? -INF : float(double(log_total) + (double(most) - double(score)));
}

extern "C" int64_t equilog_index_odds_forward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, float* log_odds, float* peak, float* inverse, int64_t threads) try {
    const Shift added(shift, classes);
    const Scores scores{{z, stride, rows, classes}, added.at(), float(scale)};
    in_parallel(rows, classes, threads, [=](int64_t begin, int64_t end, int64_t) {
        float* const total = inverse;
        if (classes <= FEW_CLASSES) sums_of_others(scores, begin, end, index, peak, total);
        else for (int64_t i = begin; i < end; ++i)
            sum_of_others(scores[i], classes, int32_t(index[i]), peak[i], total[i]);
        const Row totals{total + begin, total + end};
        write_row(end - begin, log_odds + begin, log_odds + end, [&](int64_t i, int n) {
            return logarithm(totals(i, n, 1.0f)); });
        for (int64_t i = begin; i < end; ++i) {
            log_odds[i] = log_odds_of(scores[i], classes, index[i], peak[i], total[i], log_odds[i]);
            if (std::isinf(log_odds[i])) peak[i] = INF;  // certain either way: a constant
            inverse[i] = 1.0f / total[i];
        }
    });
    return 0;
} catch (...) {
    return failure();
}

// scale * flow * (softmax over the others - one-hot), and 0 where nothing flows back, whatever the scores.
template <class Flow>
static void odds_gradient(
    const Scores& scores, const int64_t* index, const float* peak, const float* inverse, Flow flow_of, float* gradient,
    int64_t threads) {
    const int64_t rows = scores.rows, classes = scores.columns;
    in_parallel(rows, classes, threads, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i) {
            const Scores::Line line = scores[i];
            const float most = peak[i], flow = scores.scale * flow_of(i), factor = flow * inverse[i];
            float* out = gradient + i * classes;
            if (flow == 0.0f || most == INF) {
                std::fill(out, out + classes, 0.0f);
                continue;
            }
            write_row(classes, out, gradient + end * classes, [&](int64_t k, int n) {
                return factor * exponential(line(k, n, 0.0f) - most); });
            out[index[i]] = -flow;
        }
    });
}

extern "C" int64_t equilog_index_odds_backward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* peak, const float* inverse, const float* upstream, float* gradient,
    int64_t threads) try {
    const Shift added(shift, classes);
    const Scores scores{{z, stride, rows, classes}, added.at(), float(scale)};
    odds_gradient(scores, index, peak, inverse, [=](int64_t i) { return upstream[i]; }, gradient, threads);
    return 0;
} catch (...) {
    return failure();
}
