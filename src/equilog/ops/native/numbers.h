// A vector of floats at a time, their exp, rows of any length in such steps, and work by threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#define INLINE __attribute__((always_inline)) static inline

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float LOWEST = std::numeric_limits<float>::lowest();
constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();
// As many as the processor has in one: of more, comparisons and choices are compiled number by number.
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int MOST_WIDTH = 16;  // of any processor: what tables and rows from Python are filled up to

using Floats = float __attribute__((vector_size(4 * WIDTH)));  // of GCC and clang, on any processor
using Ints = int32_t __attribute__((vector_size(4 * WIDTH)));

static inline Floats all(float value) { return Floats{} + value; }
template <int... Lane>
static inline Ints numbered(std::integer_sequence<int, Lane...>) { return Ints{Lane...}; }
static inline Ints numbered() { return numbered(std::make_integer_sequence<int, WIDTH>()); }

static inline Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}
static inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

// Rows of a table, read a vector at a time: past the end of a row, where there is more of the table.
struct Row {
    const float* at;
    const float* end;
    Floats operator()(int64_t k, int count, float rest) const {
        if (count == WIDTH) return load(at + k);
        if (at + k + WIDTH <= end) return numbered() < count ? load(at + k) : all(rest);
        Floats values = all(rest);
        std::memcpy(&values, at + k, 4 * count);
        return values;
    }
};

struct Table {
    const float* at;
    int64_t stride, rows, columns;
    Row operator[](int64_t i) const { return {at + i * stride, at + (rows - 1) * stride + columns}; }
};

// As many columns as whole vectors have.
static inline int64_t padded(int64_t columns) { return (columns + WIDTH - 1) / WIDTH * WIDTH; }

// What is added to each row, or nothing, filled up to whole vectors.
struct Shift {
    std::vector<float> values;
    Shift(const float* from, int64_t columns) {
        if (from == nullptr) return;
        values.assign(from, from + columns);
        values.resize(padded(columns));
    }
    const float* at() const { return values.empty() ? nullptr : values.data(); }
};

// A table read as scale * (table + shift), shift being null or as long as whole vectors.
struct Scores : Table {
    const float* shift;
    float scale;

    struct Line {
        Row row;
        const float* shift;
        float scale;
        Floats operator()(int64_t k, int count, float rest) const {
            Floats values = row(k, count, 0.0f);
            if (shift) values += load(shift + k);
            values *= scale;
            return count == WIDTH ? values : numbered() < count ? values : all(rest);
        }
        float operator[](int64_t k) const { return scale * (row.at[k] + (shift ? shift[k] : 0.0f)); }
    };
    Line operator[](int64_t i) const { return {Table::operator[](i), shift, scale}; }
};

using Doubles = double __attribute__((vector_size(8 * WIDTH)));
// A float times a float less a float has all its digits in them.
static inline Doubles doubles(const Floats& values) { return __builtin_convertvector(values, Doubles); }
static inline Floats floats(const Doubles& values) { return __builtin_convertvector(values, Floats); }

using HalfDoubles = double __attribute__((vector_size(4 * WIDTH)));

// Lane by lane: a conversion of whole vectors becomes several instructions.
template <size_t FIRST, size_t... Lane>
INLINE void add_half(double* sums, Floats terms, double weight, std::index_sequence<Lane...>) {
    HalfDoubles total;
    std::memcpy(&total, sums, sizeof total);
    total += weight * HalfDoubles{terms[FIRST + Lane]...};
    std::memcpy(sums, &total, sizeof total);
}
INLINE void add_to(double* sums, Floats terms, double weight = 1.0) {
    add_half<0>(sums, terms, weight, std::make_index_sequence<WIDTH / 2>());
    add_half<WIDTH / 2>(sums + WIDTH / 2, terms, weight, std::make_index_sequence<WIDTH / 2>());
}

// Within 1.2 units in the last place from -87.3 to 88.3; 0 below, infinity above, NaN of NaN.
INLINE Floats exponential(Floats x) {
    const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the nearest integer in the low bits
    const Floats n = shifted - 12582912.0f;
    Floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;  // log 2 in two parts, the first short enough for an exact product
    Floats y = all(1.9875691500e-4f);  // Cephes' polynomial for exp(r), |r| <= log(2) / 2
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    y = y * reinterpret_cast<Floats>((reinterpret_cast<Ints>(shifted) + 127) << 23);
    y = x < -87.3f ? Floats{} : y;
    return x > 88.3f ? all(INF) : y;
}

// Within 0.9 units in the last place, of normal positive numbers.
static inline Floats logarithm(Floats x) {
    const Ints bits = reinterpret_cast<Ints>(x);
    Floats m = reinterpret_cast<Floats>((bits & 0x007fffff) | 0x3f000000);  // x = m * 2^n, m from 1/2 to 1
    const Ints small = m < 0.70710678f;
    m = (small ? m + m : m) - 1.0f;
    const Floats n = __builtin_convertvector((bits >> 23) - 126 + small, Floats);
    Floats y = all(7.0376836292e-2f);  // Cephes' polynomial for log(1 + m)
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * (m * m * m) - n * 2.12194440e-4f - 0.5f * (m * m);
    return m + y + n * 0.693359375f;
}

static inline Floats square_root(Floats x) {
    for (int lane = 0; lane < WIDTH; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
}

template <int N>
struct Vector {
    typedef float type __attribute__((vector_size(4 * N)));  // GCC does not see the attribute after `using`
};

// Lane by lane, of which compilers make a single instruction; of bytes copied out of the middle they do not.
template <class Half, class Whole, class Join, size_t... Lane>
static inline Half halved(const Whole& values, Join join, std::index_sequence<Lane...>) {
    return join(Half{values[Lane]...}, Half{values[sizeof...(Lane) + Lane]...});
}
template <int N = WIDTH, class Join>
static inline float across(const typename Vector<N>::type& values, Join join) {
    if constexpr (N == 4) return join(join(values[0], values[2]), join(values[1], values[3]));
    else return across<N / 2>(
        halved<typename Vector<N / 2>::type>(values, join, std::make_index_sequence<N / 2>()), join);
}

constexpr auto add = [](auto a, auto b) { return a + b; };
constexpr auto lesser = [](auto a, auto b) { return b < a ? b : a; };  // a where either is NaN
constexpr auto greater = [](auto a, auto b) { return b > a ? b : a; };  // a where either is NaN

// Fold step(accumulator, first column, columns) over columns of a row, in several accumulators that need not wait for
// each other.
template <class Step, class Join>
static inline float fold(float start, int64_t begin, int64_t end, Step step, Join join) {
    Floats a = all(start);
    int64_t k = begin;
    if (end - begin >= 4 * WIDTH) {
        Floats b = a, c = a, d = a;
        for (; k + 4 * WIDTH <= end; k += 4 * WIDTH) {
            a = step(a, k, WIDTH);
            b = step(b, k + WIDTH, WIDTH);
            c = step(c, k + 2 * WIDTH, WIDTH);
            d = step(d, k + 3 * WIDTH, WIDTH);
        }
        a = join(join(a, b), join(c, d));
    }
    for (; k + WIDTH <= end; k += WIDTH) a = step(a, k, WIDTH);
    if (k < end) a = step(a, k, int(end - k));
    return across(a, join);
}

// Do what(first column, columns) for each vector of columns.
template <class What>
INLINE void in_steps(int64_t begin, int64_t end, What what) {
    int64_t k = begin;
    for (; k + WIDTH <= end; k += WIDTH) what(k, WIDTH);
    if (k < end) what(k, int(end - k));
}

// Write what(first column, columns) to a row; past its end, where the rows after it are yet to be written.
template <class What>
static inline void write_row(int64_t columns, float* row, const float* end, What what) {
    int64_t k = 0;
    for (; k + WIDTH <= columns; k += WIDTH) store(row + k, what(k, WIDTH));
    if (k == columns) return;
    const Floats values = what(k, int(columns - k));
    if (row + k + WIDTH <= end) store(row + k, values);
    else std::memcpy(row + k, &values, 4 * (columns - k));
}

// Run work(begin, end, worker) on shares of 0..rows, with as many threads as are worth their start.
template <class Work>
static void in_parallel(int64_t rows, int64_t numbers_a_row, int64_t threads, Work work) {
    constexpr int64_t LEAST = 1 << 16;
    const int64_t worth = std::max(rows * numbers_a_row / LEAST, int64_t{1});
    const int64_t workers = std::max(std::min({worth, rows, int64_t{threads}}), int64_t{1});
    const auto border = [&](int64_t worker) { return rows * worker / workers; };
    // What a worker throws is thrown again here, once all have come to their end.
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
    const auto share = [&](int64_t worker) {
        try {
            work(border(worker), border(worker + 1), worker);
        } catch (...) {
            if (!failed.exchange(true)) failure = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(workers - 1);
    int64_t started = 1;
    try {
        for (; started < workers; ++started) others.emplace_back(share, started);
    } catch (const std::system_error&) {  // no more threads to be had: the rest is done by this one
    }
    share(0);
    for (int64_t worker = started; worker < workers; ++worker) share(worker);
    for (auto& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

// What a kernel returns in place of its result where it threw, as call.py knows them: no exception may leave it.
constexpr int64_t FAILED = -1, OUT_OF_MEMORY = -2;

static int64_t failure() noexcept {
    try {
        throw;
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    } catch (...) {
        return FAILED;
    }
}
