// The odds against every class with their targets' shares, summed over pools, and the gradient of the scores.
#pragma once
#include "far_row.h"
#include "pools.h"

constexpr float NEAR = 1e-20f;         // such exponentials and their inverses make sums of any length that fit a float
constexpr float LOG_NEAR = -46.0f;     // its logarithm
constexpr float HEAVY = 10.0f;         // the logarithm of a weight with which they still do
constexpr float ALMOST_NONE = 1e-30f;  // in a sum so large, exponentials that have become 0 do not show
constexpr float LIFT = 4294967296.0f;  // keeps small products from becoming denormal
constexpr float TOP = 2.0f;            // stands for the exponential of the largest score relative to itself

// n sets, with two numbers of each from the forward kernel: its largest score, and the sum of the other classes'
// exponentials relative to that, kept apart from the largest's own, 1, in which it may be lost. NaN where floats cannot
// hold them.
struct Sets {
    Table scores, targets;
    const float* log_weight;
    float *most, *others;

    bool is_left_out(int64_t i) const { return log_weight[i] == -INF; }
    bool is_near(int64_t i) const { return others[i] > 0.0f && log_weight[i] < HEAVY && log_weight[i] > -FAR; }
    FarRow far_row(int64_t i) const { return {scores[i].at, targets[i].at, scores.columns, log_weight[i]}; }
    double weight(int64_t i) const { return log_weight[i] == 0.0f ? 1.0 : std::exp(double(log_weight[i])); }
};

template <int KNOWN>
INLINE float largest(Row scores, Columns<KNOWN> classes) {
    const auto step = [&](Floats m, int64_t k, int n) { return greater(m, scores(k, n, LOWEST)); };
    if constexpr (KNOWN == 0) return fold(LOWEST, 0, classes.count, step, greater);
    Floats most = all(LOWEST);
    classes.in_steps([&](int64_t k, int n) { most = step(most, k, n); });
    return across(most, greater);
}

// A sum of a row before its lanes are added up, and so that of as many rows as are done together.
using Sums = Floats[MOST_ROWS];

// Write a row's exponentials, and add up those of the largest, as 1, and the rest. Nothing but sums has to wait for the
// row to be read: a class that has a share of the target and too small an exponential makes its sum infinite.
template <int KNOWN>
INLINE void exponentials(
    Row scores, Row target, float most, Columns<KNOWN> classes, float* to, Floats& rest, Floats& tops) {
    Floats others{}, largest{};
    classes.in_steps([&](int64_t k, int n) {
        const Floats x = scores(k, n, -INF) - most, e = exponential(x);
        others += ((x < LOG_NEAR) & (target(k, n, 0.0f) != 0.0f)) ? all(INF) : x == 0.0f ? Floats{} : e;
        largest += x == 0.0f ? all(1.0f) : Floats{};
        store(to + k, x == 0.0f ? all(TOP) : e);
    });
    rest = others;
    tops = largest;
}

// Add the odds of sets start..stop to a table of sums; false where doubles do not hold them either. Step by step for
// all the sets, whose computations then need not wait for each other.
template <int KNOWN>
INLINE bool add_odds(Sets sets, int64_t start, int64_t stop, Columns<KNOWN> classes, double* sums, float* scratch) {
    const int64_t width = padded(classes.count);
    Sums rest, tops;
    for (int64_t i = start; i < stop; ++i) sets.most[i] = largest(sets.scores[i], classes);
    for (int64_t i = start; i < stop; ++i) {
        const int64_t at = i - start;
        exponentials(sets.scores[i], sets.targets[i], sets.most[i], classes, scratch + at * width, rest[at], tops[at]);
    }
    for (int64_t i = start; i < stop; ++i) {
        const float others = across(rest[i - start], add) + (across(tops[i - start], add) - 1.0f);
        sets.others[i] = others < INF && others > ALMOST_NONE ? others : NOT_A_NUMBER;
    }
    for (int64_t i = start; i < stop; ++i) {
        if (sets.is_left_out(i)) continue;
        if (!sets.is_near(i)) {
            const FarRow row = sets.far_row(i);
            if (!row.is_held()) return false;
            row.add_odds(sums);
            continue;
        }
        const Row target = sets.targets[i];
        const float* from = scratch + (i - start) * width;
        const double weight = sets.weight(i) / LIFT;
        const float others = LIFT * sets.others[i], total = others + LIFT;
        classes.in_steps([&](int64_t k, int n) {
            const Floats e = load(from + k);
            // What is not the largest is at most half of the total.
            const Floats odds = e == TOP ? all(others) : total / greater(all(NEAR), e) - LIFT;
            add_to(sums + k, target(k, n, 0.0f) * odds, weight);
        });
    }
    return true;
}

// Add the residual of sets start..stop at the optimum: sqrt(t_j) (sum_k sqrt(t_k) - sqrt(t_j)).
template <int KNOWN>
INLINE void add_residual(Sets sets, int64_t start, int64_t stop, Columns<KNOWN> classes, double* sums, float* scratch) {
    const int64_t width = padded(classes.count);
    Sums totals;
    float wholes[MOST_ROWS], weights[MOST_ROWS];
    for (int64_t i = start; i < stop; ++i) {
        const Row row = sets.targets[i];
        const bool is_left_out = sets.is_left_out(i);
        float* to = scratch + (i - start) * width;
        Floats total{};
        classes.in_steps([&](int64_t k, int n) {
            const Floats root = is_left_out ? Floats{} : square_root(row(k, n, 0.0f));
            total += root;
            store(to + k, root);
        });
        totals[i - start] = total;
        weights[i - start] = float(sets.weight(i));
    }
    for (int64_t i = 0; i < stop - start; ++i) wholes[i] = across(totals[i], add);
    // So few rows in float: a sum in double has to wait for that of the row before.
    classes.in_steps([&](int64_t k, int) {
        Floats sum{};
        for (int64_t i = 0; i < stop - start; ++i) {
            const Floats root = load(scratch + i * width + k);
            sum += weights[i] * (root * (wholes[i] - root));
        }
        add_to(sums + k, sum);
    });
}

// Write the gradient of sets start..stop: with q = upstream * v t / (X p), of which `factor` is upstream / X, it is
// p * (the sum of the others' q) - q * (1 - p).
template <int KNOWN>
INLINE bool write_gradient(
    Sets sets, int64_t start, int64_t stop, Columns<KNOWN> classes, const float* log_sums, const float* upstream,
    const float* factor, float* scratch, float* gradient, const float* end) {
    const int64_t width = padded(classes.count);
    Sums flow_of_rest, flow_of_tops;
    for (int64_t i = start; i < stop; ++i) {
        const Row scores = sets.scores[i], target = sets.targets[i];
        const float most = sets.most[i];
        float* to = scratch + 2 * (i - start) * width;
        Floats rest{}, tops{};
        classes.in_steps([&](int64_t k, int n) {
            const Floats x = scores(k, n, -INF) - most, e = exponential(x);
            const Floats flow = target(k, n, 0.0f) * load(factor + k) / greater(all(NEAR), e);
            rest += x == 0.0f ? Floats{} : flow;
            tops += x == 0.0f ? flow : Floats{};
            store(to + k, x == 0.0f ? all(TOP) : e);
            store(to + width + k, flow);
        });
        flow_of_rest[i - start] = rest;
        flow_of_tops[i - start] = tops;
    }
    for (int64_t i = start; i < stop; ++i) {
        float* out = gradient + i * classes.count;
        if (sets.is_left_out(i)) {
            std::fill(out, out + classes.count, 0.0f);
            continue;
        }
        const float weight = float(sets.weight(i)), others = weight * sets.others[i], total = weight + others;
        const float of_tops = across(flow_of_tops[i - start], add);
        const float rest = weight * across(flow_of_rest[i - start], add);
        const float all_flow = rest + weight * of_tops;
        if (!sets.is_near(i) || !(std::abs(total * all_flow) < INF)) {
            const FarRow row = sets.far_row(i);
            if (!row.is_held()) return false;
            row.gradient(log_sums, upstream, out);
            continue;
        }
        const float* from = scratch + 2 * (i - start) * width;
        write_row(classes.count, out, end, [&](int64_t k, int) {
            const Floats e = load(from + k), flow = load(from + width + k);
            // The flow to the one largest class less itself is exactly 0.
            return e == TOP ? rest + weight * (of_tops - flow) - others * flow : e * all_flow - total * flow;
        });
    }
    return true;
}

// Write the logarithms of sums; false where there is one that doubles do not hold.
template <int KNOWN>
INLINE bool write_logs(const double* sums, Columns<KNOWN> classes, float* to) {
    bool held = true;
    classes.in_steps([&](int64_t k, int n) {
        Doubles exact;
        std::memcpy(&exact, sums + k, sizeof exact);
        const Floats values = numbered() < n ? floats(exact) : all(1.0f);
        const bool near = across(values, lesser) > 1e-37f && across(values, greater) < 1e37f;
        float logs[WIDTH];
        store(logs, logarithm(values));
        for (int lane = 0; lane < n; ++lane) {
            held = held && sums[k + lane] < INF;
            to[k + lane] = near ? logs[lane] : float(std::log(sums[k + lane]));
        }
    });
    return held;
}

// `residual` is null where it is not asked for; else it is summed while the targets are in the cache.
extern "C" int64_t equilog_soft_odds_forward(
    const float* z, int64_t z_stride, const float* target, int64_t target_stride, const float* log_weight, int64_t rows,
    int64_t classes, int64_t size, float* log_sums, float* of_sets, float* residual, int64_t threads) try {
    const Table scores{z, z_stride, rows, classes}, targets{target, target_stride, rows, classes};
    const Sets sets{scores, targets, log_weight, of_sets, of_sets + rows};
    const int64_t width = padded(classes);
    return with_columns(classes, [&](auto columns) {
        return sum_by_pool(
            rows, size, residual ? 2 * width : width, threads,
            [&](int64_t start, int64_t stop, double* sums, float* scratch) {
                if (residual) add_residual(sets, start, stop, columns, sums + width, scratch);
                return add_odds(sets, start, stop, columns, sums, scratch);
            },
            [&](int64_t pool, const double* sums) {
                for (int64_t k = 0; residual && k < classes; ++k) residual[pool * classes + k] = float(sums[width + k]);
                return write_logs(sums, columns, log_sums + pool * classes);
            });
    });
} catch (...) {
    return failure();
}

extern "C" int64_t equilog_soft_odds_backward(
    const float* z, int64_t z_stride, const float* target, int64_t target_stride, const float* log_weight, int64_t rows,
    int64_t classes, int64_t size, const float* log_sums, float* of_sets, const float* upstream, float* gradient,
    int64_t threads) try {
    const Table scores{z, z_stride, rows, classes}, targets{target, target_stride, rows, classes};
    const Sets sets{scores, targets, log_weight, of_sets, of_sets + rows};
    const int64_t pools = (rows + size - 1) / size, few = rows_at_once(2 * classes);
    const Table sums_of{log_sums, classes, pools, classes}, upstream_of{upstream, classes, pools, classes};
    std::atomic<bool> held{true};
    with_columns(classes, [&](auto columns) {
        in_parallel(rows, classes, threads, [&](int64_t begin, int64_t end, int64_t) {
            std::vector<float> factor(padded(classes)), scratch(2 * few * padded(classes));
            for (int64_t pool = begin / size; pool * size < end; ++pool) {
                const Row sums = sums_of[pool], flows = upstream_of[pool];
                columns.in_steps([&](int64_t k, int n) {
                    // In two halves: the inverse of a small sum overflows where its product with what flows does not.
                    const Floats log_sum = sums(k, n, -INF), half = exponential(-0.5f * log_sum), u = flows(k, n, 0.0f);
                    store(&factor[k], ((u == 0.0f) | (log_sum == -INF)) ? Floats{} : u * half * half);
                });
                const int64_t last = std::min((pool + 1) * size, end);
                for (int64_t i = std::max(pool * size, begin); i < last && held; i += few)
                    if (!write_gradient(sets, i, std::min(i + few, last), columns, sums.at, flows.at, factor.data(),
                                        scratch.data(), gradient, gradient + end * classes))
                        held = false;
            }
        });
    });
    return held;
} catch (...) {
    return failure();
}
