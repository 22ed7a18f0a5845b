// Of index targets, the pairwise terms exp(z_k - z_index), summed over the rows of each pool and index in a table of
// doubles (pools * classes, padded columns), and the gradient of the scores. Where a difference has no exponential in
// double, or is not a number, the sums are left to others: 0 is returned.
#pragma once
#include <atomic>

#include "numbers.h"

struct Pairs : Scores {
    const int64_t* index;
    const float* weight;
    int64_t size;  // rows a pool

    float chosen(int64_t i) const { return (*this)[i][index[i]]; }
    int64_t width() const { return (columns + MOST_WIDTH - 1) / MOST_WIDTH * MOST_WIDTH; }  // as Python makes it
    int64_t line(int64_t i) const { return i / size * columns + index[i]; }
    int64_t lines() const { return (rows + size - 1) / size * columns; }

    // Whether the terms of all columns from begin to end fit a float. NaN is told by their sum.
    bool is_safe(int64_t i, int64_t begin, int64_t end) const {
        const float base = chosen(i);
        return fold(-INF, begin, end, [&, score = (*this)[i]](Floats m, int64_t k, int n) {
                   return greater(m, score(k, n, -INF)); }, greater) - base <= 80.0f;
    }
    double term(int64_t i, int64_t k) const { return std::exp(double((*this)[i][k]) - double(chosen(i))); }
};

static inline bool add_terms(const Pairs& of, int64_t begin, int64_t end, double* table) {
    Floats seen{};
    for (int64_t i = 0; i < of.rows; ++i) {
        const float weight = of.weight[i];
        double* cell = table + of.line(i) * of.width();
        if (weight == 0.0f) continue;
        if (of.is_safe(i, begin, end)) {
            const Scores::Line score = of[i];
            const float chosen = of.chosen(i);
            in_steps(begin, end, [&](int64_t k, int n) {
                const Floats terms = weight * exponential(score(k, n, -INF) - chosen);
                seen += terms;
                add_to(cell + k, terms);
            });
        } else {
            for (int64_t k = begin; k < end; ++k) {
                const double term = weight * of.term(i, k);
                if (!(term <= 1e300)) return false;
                cell[k] += term;
            }
        }
    }
    return !std::isnan(across(seen, add));
}

extern "C" int64_t equilog_pair_sums_forward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* weight, int64_t size, double* table, int64_t threads) try {
    const Shift added(shift, classes);
    const Pairs of{{{z, stride, rows, classes}, added.at(), float(scale)}, index, weight, size};
    std::atomic<bool> is_whole{true};
    // By columns: each thread has cells of its own, and a cell has its terms in the same order however many there are.
    in_parallel((classes + WIDTH - 1) / WIDTH, rows * WIDTH, threads, [&](int64_t begin, int64_t end, int64_t) {
        if (!add_terms(of, begin * WIDTH, std::min(end * WIDTH, classes), table)) is_whole = false;
    });
    for (int64_t line = 0; line < of.lines(); ++line) table[line * of.width() + line % classes] = 0.0;
    return is_whole;
} catch (...) {
    return failure();
}

extern "C" int64_t equilog_pair_sums_backward(
    const float* z, int64_t stride, int64_t rows, int64_t classes, const float* shift, double scale,
    const int64_t* index, const float* weight, int64_t size, const double* table, const float* upstream,
    float* gradient, int64_t threads) try {
    const Shift added(shift, classes);
    const Pairs of{{{z, stride, rows, classes}, added.at(), float(scale)}, index, weight, size};
    const auto slope = [=](double sum, float flow) { return sum == 0.0 ? 0.0 : scale * flow / sum; };
    std::vector<float> slopes(of.lines() * of.width());
    in_parallel(of.lines(), classes, threads, [&](int64_t begin, int64_t end, int64_t) {
        constexpr double MOST = std::numeric_limits<float>::max();
        for (int64_t line = begin; line < end; ++line) {
            const double* sums = table + line * of.width();
            const float* flow = upstream + line * classes;
            float* out = slopes.data() + line * of.width();
            for (int64_t k = 0; k < classes; ++k)
                out[k] = float(std::min(std::max(slope(sums[k], flow[k]), -MOST), MOST));
        }
    });
    in_parallel(rows, classes, threads, [&](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i) {
            float* out = gradient + i * classes;
            const float weight = of.weight[i], chosen = of.chosen(i);
            if (weight == 0.0f) {
                std::fill(out, out + classes, 0.0f);
            } else if (of.is_safe(i, 0, classes)) {
                const Scores::Line score = of[i];
                const float* slopes_of = slopes.data() + of.line(i) * of.width();
                Floats total{};
                write_row(classes, out, gradient + end * classes, [&](int64_t k, int n) {
                    const Floats part = weight * exponential(score(k, n, -INF) - chosen) * load(slopes_of + k);
                    total += part;
                    return part; });
                out[of.index[i]] = -across(total, add);  // whose slope is 0
            } else {
                const double* sums = table + of.line(i) * of.width();
                const float* flow = upstream + of.line(i) * classes;
                double total = 0.0;
                for (int64_t k = 0; k < classes; ++k) {
                    const double part = weight * of.term(i, k) * slope(sums[k], flow[k]);
                    out[k] = float(part);
                    total += part;
                }
                out[of.index[i]] = float(-total);
            }
        }
    });
    return 0;
} catch (...) {
    return failure();
}
