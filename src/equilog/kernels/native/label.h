// The log odds against each row's label, and the gradient of the scores.
#pragma once
#include "numbers.h"

static inline void label_row(
    Scores::Line z, int64_t classes, int32_t label, float& log_odds, float& peak, float& inverse) {
    // The label's place holds the least number, so that the largest is finite even where nothing else is left.
    const auto others = [=](Floats values, int64_t k, float place) {
        return numbered() == label - int32_t(k) ? all(place) : values;
    };
    const float most = fold(LOWEST, 0, classes, [&](Floats m, int64_t k, int n) {
        return greater(m, others(z(k, n, LOWEST), k, LOWEST)); }, greater);
    const float total = fold(0.0f, 0, classes, [&](Floats s, int64_t k, int n) {
        return s + exponential(others(z(k, n, -INF) - most, k, -INF)); }, add);
    const float own = z[label];
    if (std::isnan(total) && most == INF) {  // infinity less infinity, if nothing else
        bool is_number = !std::isnan(own);
        for (int64_t k = 0; k < classes; ++k) is_number = is_number && !std::isnan(z[k]);
        log_odds = is_number ? INF : NOT_A_NUMBER;
    } else {
        log_odds = own == -INF ? INF : float(double(std::log(total)) + (double(most) - double(own)));
    }
    peak = std::isinf(log_odds) ? INF : most;  // certain either way: a constant
    inverse = 1.0f / total;
}

extern "C" int64_t equilog_label_forward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* labels, float* log_odds, float* peak, float* inverse, int64_t threads) {
    const Scores scores{z, stride, rows, classes, shift, float(scale)};
    in_parallel(rows, classes, threads, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i)
            label_row(scores[i], classes, int32_t(labels[i]), log_odds[i], peak[i], inverse[i]);
    });
    return 0;
}

// scale * upstream * (softmax over the others - one-hot), and 0 where nothing flows back, whatever the scores.
extern "C" int64_t equilog_label_backward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* labels, const float* peak, const float* inverse, const float* upstream, float* gradient,
    int64_t threads) {
    const Scores scores{z, stride, rows, classes, shift, float(scale)};
    in_parallel(rows, classes, threads, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i) {
            const Scores::Line score = scores[i];
            const float most = peak[i], flow = scores.scale * upstream[i], factor = flow * inverse[i];
            float* out = gradient + i * classes;
            if (upstream[i] == 0.0f || most == INF) {
                std::fill(out, out + classes, 0.0f);
                continue;
            }
            each(classes, out, gradient + end * classes, [&](int64_t k, int n) {
                return factor * exponential(score(k, n, 0.0f) - most); });
            out[labels[i]] = -flow;
        }
    });
    return 0;
}
