// Softmax over labels, of several pixels at a time.

#pragma once

#include <cstdint>

#include "lattice.h"
#include "vectors.h"

namespace {

template <class V>
inline V larger(V a, V b) {
    return a > b ? a : b;
}

// 2^x for x <= 0, to 2e-7 of it; 2^-126 for x below -126 and where x is not a number.
template <class V>
inline V power_of_two(V x) {
    constexpr float kShift = kToInteger + 127.0f;  // leaves the biased exponent in the lowest bits
    x = larger(x, V{} - 126.0f);
    const V shifted = x + kShift, r = x - (shifted - kShift);
    V y = r * 1.3274558586999774e-3f + 9.671958163380623e-3f;  // minimax over -0.5 .. 0.5
    y = y * r + 5.5506788194179535e-2f;
    y = y * r + 2.4022234976291656e-1f;
    y = y * r + 6.931470632553101e-1f;
    y = y * r + 1.0f;
    return y * bits<V>(bits<Ints<sizeof(V) / 4>>(shifted) << 23);
}

// 4 x 4 values; in vectors of eight, those of each half.
inline void transpose(Floats<4>* v) {
    const auto a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    const auto c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    v[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    v[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
inline void transpose(Floats<8>* v) {
    const auto low = [](auto x, auto y) { return __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13); };
    const auto high = [](auto x, auto y) { return __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15); };
    const auto a = low(v[0], v[1]), b = high(v[0], v[1]), c = low(v[2], v[3]), d = high(v[2], v[3]);
    v[0] = __builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13);
    v[1] = __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
    v[2] = __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13);
    v[3] = __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15);
}

// The upper half of v[i] for the lower half of v[i + 4].
template <class V>
inline void swap_halves(V* v) {
    for (int i = 0; i < 4; ++i) {
        const V a = v[i], b = v[i + 4];
        v[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
        v[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// From one vector of labels in each of kWide rows, `width` apart, to a vector of pixels for each of these labels.
template <class V>
inline void load_labels(const V* rows, int width, Wide* labels) {
    if constexpr (sizeof(V) == sizeof(Wide)) {
        for (int i = 0; i < kWide; ++i) labels[i] = rows[i * width];
        if constexpr (kWide == 8) {
            swap_halves(labels);
            transpose(labels + 4);
        }
    } else {
        for (int i = 0; i < 4; ++i)
            labels[i] = __builtin_shufflevector(rows[i * width], rows[(i + 4) * width], 0, 1, 2, 3, 4, 5, 6, 7);
    }
    transpose(labels);
}

// And back; the labels are left transposed.
template <class V>
inline void store_labels(Wide* labels, V* rows, int width) {
    transpose(labels);
    if constexpr (sizeof(V) == sizeof(Wide)) {
        if constexpr (kWide == 8) {
            transpose(labels + 4);
            swap_halves(labels);
        }
        for (int i = 0; i < kWide; ++i) rows[i * width] = labels[i];
    } else {
        for (int i = 0; i < 4; ++i) {
            rows[i * width] = __builtin_shufflevector(labels[i], labels[i], 0, 1, 2, 3);
            rows[(i + 4) * width] = __builtin_shufflevector(labels[i], labels[i], 4, 5, 6, 7);
        }
    }
}

// q_k = p_k 2^(m_k) / (copies_k sum_j p_j 2^(m_j)) of kWide pixels, for the messages m >= 0 in their rows; without
// messages, m = 0. q has C vectors' worth of labels; those that are not are 0.
template <class V, int C, bool kMessages>
inline void softmax(const V* rows, int width, const Wide* priors, const float* share, int labels, Wide* q) {
    constexpr int lanes = Row<V, C>::kWidth;
    Wide top = {}, sums[4] = {};
    if constexpr (kMessages)
        for (int c = 0; c < width; ++c) {
            load_labels(rows + c, width, q + c * lanes);
            for (int i = 0; i < lanes; ++i) top = c + i ? larger(top, q[c * lanes + i]) : q[0];
        }
    for (int c = 0; c < width; ++c)
        for (int i = 0; i < lanes; ++i) {
            const int k = c * lanes + i;
            if (k < labels) {
                q[k] = kMessages ? priors[k] * power_of_two(q[k] - top) : priors[k];
                sums[i % 4] = k < 4 ? q[k] : sums[i % 4] + q[k];
            } else {
                q[k] = Wide{};
            }
        }
    const Wide inverse = 1.0f / ((sums[0] + sums[2]) + (sums[1] + sums[3]));
    for (int c = 0; c < width; ++c)
        for (int i = 0; i < lanes; ++i)
            if (c * lanes + i < labels) q[c * lanes + i] *= inverse * share[c * lanes + i];
}

}  // namespace
