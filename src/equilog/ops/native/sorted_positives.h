// The label numbers of each sample's positives in order, and whether they are what they should be.
#pragma once
#include "numbers.h"

// In place of -1 and of what is out of range stands the number of labels, which comes last.
extern "C" int64_t equilog_sorted_positives(
    const int64_t* target, int64_t rows, int64_t most, int64_t labels, int64_t* index, bool* wrong,
    int64_t threads) try {
    in_parallel(rows, most, threads, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t* unsorted = target + i * most;
            int64_t *first = index + i * most, *last = first + most;
            bool bad = false;
            for (int64_t k = 0; k < most; ++k) {
                const bool is_label = unsorted[k] >= 0 && unsorted[k] < labels;
                bad = bad || (!is_label && unsorted[k] != -1);
                first[k] = is_label ? unsorted[k] : labels;
            }
            std::sort(first, last);
            int64_t* const padding = std::lower_bound(first, last, labels);
            wrong[i] = bad || std::adjacent_find(first, padding) != padding;
        }
    });
    return 0;
} catch (...) {
    return failure();
}
