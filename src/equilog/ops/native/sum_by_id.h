// The sums of exponentials of values that share an id, relative to the largest of each id, and each value's share.
#pragma once
#include "numbers.h"

// Sets of consecutive pools: the id of a set is the number of the first of its pool that has the same slot.
extern "C" int64_t equilog_first_of_slot(
    const int64_t* slot, int64_t rows, int64_t size, int64_t slots, int64_t* ids, int64_t) try {
    std::vector<int64_t> first(slots, -1);
    for (int64_t i = 0; i < rows; ++i) {
        int64_t& leader = first[slot[i]];
        if (leader < i / size * size) leader = i;  // none yet, or in a pool before
        ids[i] = leader;
    }
    return 0;
} catch (...) {
    return failure();
}

extern "C" int64_t equilog_sums_by_id(
    const float* values, const int64_t* ids, int64_t rows, int64_t count, float* peaks, float* sums, float* shares,
    int64_t) try {
    std::fill(peaks, peaks + count, -INF);
    for (int64_t i = 0; i < rows; ++i) peaks[ids[i]] = greater(peaks[ids[i]], values[i]);
    for (int64_t id = 0; id < count; ++id)
        if (std::isinf(peaks[id])) peaks[id] = 0.0f;  // infinities then go their own way through exp
    for (int64_t i = 0; i < rows; ++i) shares[i] = values[i] - peaks[ids[i]];
    write_row(rows, shares, shares + rows, [&, row = Row{shares, shares + rows}](int64_t k, int n) {
        return exponential(row(k, n, 0.0f)); });
    std::vector<double> totals(count);
    for (int64_t i = 0; i < rows; ++i) totals[ids[i]] += shares[i];
    for (int64_t id = 0; id < count; ++id) sums[id] = float(totals[id]);
    for (int64_t i = 0; i < rows; ++i) {
        const double total = totals[ids[i]];
        shares[i] = total == 0.0 || total == INF ? 0.0f : float(shares[i] / total);
    }
    return 0;
} catch (...) {
    return failure();
}
