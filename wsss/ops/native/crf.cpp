// Dense CRF by mean field on the permutohedral lattice, for one image and one thread.
//
// Kraehenbuehl & Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011;
// Adams, Baek & Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010.
//
// The same vertices and the same arithmetic as the torch reference (wsss/ops/lattice.py). Compile with
// -ffp-contract=off: a fused multiply-add in the embedding moves points to other simplices.
//
// What makes it fast: slice, softmax and splat are one pass over the pixels, in blocks, and the marginals are never
// stored; the blur runs in place along chains of adjacent vertices; lattice points are single 64-bit keys.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__GNUC__)
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#error "GCC or Clang is needed"
#endif

namespace {

template <int N>
struct Simd {
    typedef float Float __attribute__((vector_size(4 * N), may_alias));
    typedef int32_t Int __attribute__((vector_size(4 * N), may_alias));
};
template <int N>
using Floats = typename Simd<N>::Float;
template <int N>
using Ints = typename Simd<N>::Int;

template <class To, class From>
inline To bits(From from) {  // the same bits as another type
    static_assert(sizeof(To) == sizeof(From));
    return (To)from;
}

constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds half to even

// Memory that is not initialised, in huge pages where there are some: the passes jump about in it.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t count) {
        const size_t bytes = count * sizeof(T), page = bytes < kHuge ? 64 : kHuge;
        data_ = static_cast<T*>(std::aligned_alloc(page, (bytes + page - 1) / page * page));
        if (!data_) throw std::bad_alloc();
#if defined(__linux__)
        if (page == kHuge) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* data() { return data_; }
    const T* data() const { return data_; }

  private:
    static constexpr size_t kHuge = size_t{1} << 21;
    T* data_;
};

// ---------------------------------------------------------------------------------------------------------- lattice

struct Corner {
    int32_t vertex;
    float weight;  // barycentric weight times the point's symmetric normalisation
};

// Runs of adjacent vertices along one axis, one after the other; vertices without a neighbour are in none.
struct Chains {
    std::vector<int32_t> members;
    std::vector<int32_t> lengths;
};

struct Lattice {
    Lattice(int dimensions, size_t points)
        : dimensions(dimensions), points(points), corners(points * static_cast<size_t>(dimensions + 1)) {}

    int dimensions;
    int32_t vertices = 0;
    size_t points;
    Buffer<Corner> corners;    // points x (dimensions + 1)
    std::vector<Chains> axes;  // dimensions + 1

    float slice_factor() const { return 1.0f / (1.0f + std::ldexp(1.0f, -dimensions)); }
};

// An open-addressing table from keys to consecutive numbers.
class Numbers {
  public:
    Numbers() { resize(14); }

    int32_t insert(uint64_t key) {
        size_t place = find_place(key);
        if (slots_[place].number < 0) {
            if (2 * keys_.size() >= slots_.size()) {
                resize(bits_ + 1);
                place = find_place(key);
            }
            slots_[place] = {key, static_cast<int32_t>(keys_.size())};
            keys_.push_back(key);
        }
        return slots_[place].number;
    }
    const std::vector<uint64_t>& keys() const { return keys_; }

  private:
    struct Slot {
        uint64_t key;
        int32_t number;
    };
    size_t find_place(uint64_t key) const {
        size_t place = (key * 0x9E3779B97F4A7C15u) >> (64 - bits_);
        while (slots_[place].number >= 0 && slots_[place].key != key) place = (place + 1) & (slots_.size() - 1);
        return place;
    }
    void resize(int bits) {
        bits_ = bits;
        slots_.assign(size_t{1} << bits, Slot{0, -1});
        for (size_t i = 0; i < keys_.size(); ++i) slots_[find_place(keys_[i])] = {keys_[i], static_cast<int32_t>(i)};
    }
    int bits_ = 0;
    std::vector<Slot> slots_;
    std::vector<uint64_t> keys_;
};

// The simplices of eight points: quotients of the remainder-0 vertex by D + 1, ranks, barycentric weights.
template <int D>
struct Simplices {
    Ints<8> quotient[D + 1], rank[D + 1];
    Floats<8> weight[D + 1];
};

template <int D>
void embed(const Floats<8>* feature, const float* scale, Simplices<D>& out) {
    constexpr float corners = D + 1, inverse = 1.0f / (D + 1);
    Floats<8> elevated[D + 1], rest[D + 1], rounded[D + 1], partial = {}, sum = {};
    for (int axis = D; axis > 0; --axis) {
        const Floats<8> scaled = feature[axis - 1] * scale[axis - 1];
        elevated[axis] = partial - scaled * static_cast<float>(axis);
        partial = partial + scaled;
    }
    elevated[0] = partial;
    for (int i = 0; i <= D; ++i) {
        rounded[i] = (elevated[i] * inverse + kToInteger) - kToInteger;
        rest[i] = elevated[i] - rounded[i] * corners;
        sum += rounded[i];
    }
    const Ints<8> excess = __builtin_convertvector(sum, Ints<8>);
    for (int i = 0; i <= D; ++i) out.rank[i] = excess;
    for (int i = 0; i < D; ++i)
        for (int j = i + 1; j <= D; ++j) {
            const Ints<8> below = rest[i] < rest[j];  // -1 where true
            out.rank[i] -= below;
            out.rank[j] += 1 + below;
        }
    for (int i = 0; i <= D; ++i) {
        const Ints<8> wrap = (out.rank[i] > D) - (out.rank[i] < 0);  // +1 below the range, -1 above it
        out.rank[i] += wrap * (D + 1);
        rounded[i] += __builtin_convertvector(wrap, Floats<8>);
        out.quotient[i] = __builtin_convertvector(rounded[i], Ints<8>);
        rest[i] = (elevated[i] - rounded[i] * corners) * inverse;
    }
    Ints<8> by_rank[D + 1];  // bits of rest[i] at D - rank[i]
    for (int p = 0; p <= D; ++p) {
        by_rank[p] = Ints<8>{};
        for (int i = 0; i <= D; ++i) by_rank[p] |= bits<Ints<8>>(rest[i]) & (out.rank[i] == D - p);
    }
    const auto value = [&](int p) { return bits<Floats<8>>(by_rank[p]); };
    for (int p = 1; p <= D; ++p) out.weight[p] = value(p) - value(p - 1);
    out.weight[0] = value(0) + (1.0f - value(D));
}

// Keys of lattice points: the remainder above the quotients in mixed radix. The extents bound the coordinates.
template <int D>
struct Keys {
    int64_t stride[D + 1];  // of the last axis: 0, its coordinate follows from the others
    int64_t origin;         // the key of the point 0
    int64_t remainder;      // what one more in the remainder adds
    int64_t all;            // what one more in every quotient adds

    // False if the points spread too far for the keys.
    bool fit(const float* extent, const float* scale) {
        double above[D + 1], places = 1;
        above[D] = 0;
        for (int axis = D - 1; axis >= 0; --axis) above[axis] = above[axis + 1] + double{extent[axis]} * scale[axis];
        if (!(above[0] < 32760) || !(D * double{extent[D - 1]} * scale[D - 1] < 32760)) return false;
        int64_t low_sum = 0;
        all = 0;
        for (int axis = 0; axis < D; ++axis) {
            const double below = axis ? axis * double{extent[axis - 1]} * scale[axis - 1] : 0.0;
            const int64_t low = -static_cast<int64_t>(below / (D + 1)) - 4;
            const int64_t radix = static_cast<int64_t>(above[axis] / (D + 1)) + 5 - low;
            stride[axis] = static_cast<int64_t>(places);
            places *= static_cast<double>(radix);
            if (places > 4e18 / (D + 1)) return false;
            low_sum += low * stride[axis];
            all += stride[axis];
        }
        stride[D] = 0;
        origin = -low_sum;
        remainder = static_cast<int64_t>(places);
        return true;
    }
};

template <int D>
struct Known {  // a simplex seen before
    int64_t origin;
    int32_t ranks = -1;
    int32_t vertex[D + 1];
};

// The vertices of a simplex, made where they are new.
template <int D>
void insert(Numbers& numbers, const Keys<D>& keys, Known<D>& simplex) {
    int64_t stride_at[D + 1];  // of the axis at each rank
    for (int i = 0; i <= D; ++i) stride_at[(simplex.ranks >> (3 * i)) & 7] = keys.stride[i];
    int64_t key = simplex.origin;
    for (int remainder = 0; remainder <= D; ++remainder) {
        if (remainder) key += keys.remainder - stride_at[D + 1 - remainder];
        simplex.vertex[remainder] = numbers.insert(static_cast<uint64_t>(key));
    }
}

struct Vertex {
    int64_t key;
    int32_t number;
};

// The vertices in the order of their keys.
std::vector<Vertex> sorted(const std::vector<uint64_t>& keys) {
    constexpr int kBits = 11;
    std::vector<Vertex> from(keys.size()), to(keys.size());
    uint64_t any = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
        from[i] = {static_cast<int64_t>(keys[i]), static_cast<int32_t>(i)};
        any |= keys[i];
    }
    for (int shift = 0; shift < 64 && any >> shift; shift += kBits) {
        const auto digit = [=](const Vertex& v) { return static_cast<size_t>(v.key >> shift) & ((1u << kBits) - 1); };
        std::array<size_t, (1u << kBits) + 1> place{};
        for (const Vertex& v : from) ++place[digit(v) + 1];
        for (size_t d = 1; d < place.size(); ++d) place[d] += place[d - 1];
        for (const Vertex& v : from) to[place[digit(v)]++] = v;
        from.swap(to);
    }
    return from;
}

// The chains along one axis. The next vertex has a remainder that is one less, and one more in the axis' quotient;
// below remainder 0 comes remainder d, with one less in every quotient.
template <int D>
Chains chains_of(const std::vector<Vertex>& vertices, const Keys<D>& keys, int axis) {
    const auto count = static_cast<int32_t>(vertices.size());
    std::vector<int32_t> next(vertices.size(), -1);
    std::vector<uint8_t> has_previous(vertices.size(), 0);
    int32_t group[D + 2] = {};  // where each remainder begins
    for (int r = 1; r <= D + 1; ++r)
        group[r] = static_cast<int32_t>(
            std::partition_point(vertices.begin(), vertices.end(),
                                 [&](const Vertex& v) { return v.key < r * keys.remainder; }) - vertices.begin());
    for (int r = 0; r <= D; ++r) {
        const int below = r ? r - 1 : D;
        const int64_t step = keys.stride[axis] + (r ? -keys.remainder : D * keys.remainder - keys.all);
        int32_t v = group[r], other = group[below];
        while (v < group[r + 1] && other < group[below + 1]) {  // a merge without branches
            const int64_t wanted = vertices[static_cast<size_t>(v)].key + step;
            const int64_t key = vertices[static_cast<size_t>(other)].key;
            next[static_cast<size_t>(v)] = wanted == key ? other : -1;
            has_previous[static_cast<size_t>(other)] = wanted == key;
            v += wanted <= key;
            other += key <= wanted;
        }
    }
    Chains chains;
    chains.members.reserve(vertices.size());
    for (int32_t start = 0; start < count; ++start) {
        if (has_previous[static_cast<size_t>(start)] || next[static_cast<size_t>(start)] < 0) continue;
        const size_t before = chains.members.size();
        for (int32_t v = start; v >= 0; v = next[static_cast<size_t>(v)])
            chains.members.push_back(vertices[static_cast<size_t>(v)].number);
        chains.lengths.push_back(static_cast<int32_t>(chains.members.size() - before));
    }
    return chains;
}

void normalise(Lattice& lattice);

// The lattice of `points` points; feature(axis, point) is in units of sigma and lies in 0 .. extent[axis].
template <int D, class Feature>
std::unique_ptr<Lattice> build(size_t points, const float* extent, Feature feature) {
    float scale[D];
    const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
    for (int i = 0; i < D; ++i) scale[i] = static_cast<float>(1.0 / std::sqrt((i + 2.0) * (i + 1.0)) * deviation);
    Keys<D> keys;
    if (points > INT32_MAX / (D + 1) || !keys.fit(extent, scale)) return nullptr;

    auto lattice = std::make_unique<Lattice>(D, points);
    Numbers numbers;
    std::vector<Known<D>> cache(4096);
    for (size_t start = 0; start < points; start += 8) {
        const size_t count = std::min<size_t>(8, points - start);
        Floats<8> features[D] = {};
        for (int axis = 0; axis < D; ++axis)
            for (size_t p = 0; p < count; ++p) features[axis][p] = feature(axis, start + p);
        Simplices<D> simplices;
        embed<D>(features, scale, simplices);
        Ints<8> packed = {};
        for (int i = 0; i <= D; ++i) packed |= simplices.rank[i] << (3 * i);
        for (size_t p = 0; p < count; ++p) {
            int64_t origin = keys.origin;
            for (int i = 0; i < D; ++i) origin += keys.stride[i] * simplices.quotient[i][p];
            const int32_t ranks = packed[p];
            const uint64_t mixed = static_cast<uint64_t>(origin) ^ (static_cast<uint64_t>(ranks) << 40);
            Known<D>& known = cache[(mixed * 0x9E3779B97F4A7C15u) >> 52];
            if (known.ranks != ranks || known.origin != origin) {
                known.ranks = ranks;
                known.origin = origin;
                insert(numbers, keys, known);
            }
            Corner* corner = lattice->corners.data() + (start + p) * (D + 1);
            for (int r = 0; r <= D; ++r) corner[r] = {known.vertex[r], simplices.weight[r][p]};
        }
    }
    const std::vector<Vertex> vertices = sorted(numbers.keys());
    lattice->vertices = static_cast<int32_t>(vertices.size());
    for (int axis = 0; axis <= D; ++axis) lattice->axes.push_back(chains_of(vertices, keys, axis));
    normalise(*lattice);
    return lattice;
}

// ------------------------------------------------------------------------------------------------- rows of labels

// A row of labels is C vectors of type V (C = 0: as many as `count` says, up to kMost).
constexpr int kMost = 32;

template <class V, int C>
struct Row {
    static constexpr int kStored = C ? C : kMost;
    static constexpr int kWidth = sizeof(V) / 4;
};

template <class V, int C>
void blur(const Lattice& lattice, V* values, int count) {
    const int width = C ? C : count;
    for (const Chains& chains : lattice.axes) {
        const int32_t* member = chains.members.data();
        for (const int32_t length : chains.lengths) {
            for (int c = 0; c < width; ++c) {
                V* column = values + c;
                V previous = {}, here = column[static_cast<size_t>(member[0]) * width];
                for (int32_t i = 1; i < length; ++i) {
                    const V following = column[static_cast<size_t>(member[i]) * width];
                    column[static_cast<size_t>(member[i - 1]) * width] = here + 0.5f * (previous + following);
                    previous = here;
                    here = following;
                }
                column[static_cast<size_t>(member[length - 1]) * width] = here + 0.5f * previous;
            }
            member += length;
        }
    }
}

template <class V, int C>
inline void gather(const Corner* corner, int corners, const V* values, int width, float factor, V* sum) {
    V own[Row<V, C>::kStored] = {};
    for (int j = 0; j < corners; ++j) {
        const V* value = values + static_cast<size_t>(corner[j].vertex) * width;
        for (int c = 0; c < width; ++c) own[c] += value[c] * corner[j].weight;
    }
    for (int c = 0; c < width; ++c) sum[c] += own[c] * factor;
}

template <class V, int C>
inline void scatter(const Corner* corner, int corners, V* values, int width, const V* row) {
    for (int j = 0; j < corners; ++j) {
        V* value = values + static_cast<size_t>(corner[j].vertex) * width;
        for (int c = 0; c < width; ++c) value[c] += row[c] * corner[j].weight;
    }
}

// e^x for x <= 0, to about 1e-7; 0 below -87.
template <class V>
inline V exponential(V x) {
    using Bits = Ints<sizeof(V) / 4>;
    const V power = (x * 1.44269504f + kToInteger) - kToInteger;
    const V r = (x - power * 0.693359375f) - power * -2.12194440e-4f;
    V y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    const Bits inside = x > -87.0f;
    const Bits exponent = __builtin_convertvector(power, Bits) & inside;
    const V value = y * bits<V>((exponent + 127) << 23);
    return bits<V>(bits<Bits>(value) & inside);
}

template <class V>
inline V larger(V a, V b) {
    return a > b ? a : b;
}
inline Floats<4> swap_ones(Floats<4> v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2); }
inline Floats<8> swap_ones(Floats<8> v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6); }
inline Floats<4> swap_pairs(Floats<4> v) { return __builtin_shufflevector(v, v, 2, 3, 0, 1); }
inline Floats<8> swap_pairs(Floats<8> v) { return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5); }
inline Floats<8> swap_halves(Floats<8> v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3); }

// `join` of each group of G lanes, in all lanes of the group.
template <int G, class V, class Join>
inline V reduce(V v, Join join) {
    if constexpr (G == 8) v = join(v, swap_halves(v));
    v = join(v, swap_pairs(v));
    return join(v, swap_ones(v));
}

// q = p e^m / sum p e^m of each row of `width` vectors, or of each group of G lanes where width is 1, times `share`;
// the messages m, which are not negative, are replaced by q. Without messages q = p / sum p.
template <int G, bool kMessages, class V>
inline void normalised(V* rows, const V* priors, int count, int width, const V* share) {
    const auto add = [](V a, V b) { return a + b; };
    for (int i = 0; i < count * width; i += width) {
        V* row = rows + i;
        V sum = {};
        if constexpr (kMessages) {
            V top = row[0];
            for (int c = 1; c < width; ++c) top = larger(top, row[c]);
            top = reduce<G>(top, larger<V>);
            for (int c = 0; c < width; ++c) sum += row[c] = priors[i + c] * exponential(row[c] - top);
        } else {
            for (int c = 0; c < width; ++c) sum += row[c] = priors[i + c];
        }
        const V inverse = 1.0f / reduce<G>(sum, add);
        for (int c = 0; c < width; ++c) row[c] *= inverse * share[c];
    }
}

// A block of rows; those of four lanes go in pairs.
template <class V, int C, bool kMessages>
inline void normalise_block(V* rows, const V* priors, int count, int width, const V* share) {
    if constexpr (C == 1 && Row<V, C>::kWidth == 4) {
        const V twice[2] = {share[0], share[0]};
        const int pairs = count / 2;
        normalised<4, kMessages>(reinterpret_cast<Floats<8>*>(rows), reinterpret_cast<const Floats<8>*>(priors), pairs, 1,
                                 reinterpret_cast<const Floats<8>*>(twice));
        normalised<4, kMessages>(rows + 2 * pairs, priors + 2 * pairs, count % 2, 1, share);
    } else {
        normalised<Row<V, C>::kWidth, kMessages>(rows, priors, count, width, share);
    }
}

// (K 1)^(-1/2) goes into the weights of every point.
void normalise(Lattice& lattice) {
    const int corners = lattice.dimensions + 1;
    Corner* const first = lattice.corners.data();
    Corner* const end = first + lattice.points * static_cast<size_t>(corners);
    std::vector<float> values(static_cast<size_t>(lattice.vertices), 0.0f);
    const float one = 1.0f;
    for (const Corner* corner = first; corner < end; corner += corners)
        scatter<float, 1>(corner, corners, values.data(), 1, &one);
    blur<float, 1>(lattice, values.data(), 1);
    for (Corner* corner = first; corner < end; corner += corners) {
        float sum = 0.0f;
        gather<float, 1>(corner, corners, values.data(), 1, lattice.slice_factor(), &sum);
        const float norm = 1.0f / std::sqrt(sum + 1e-20f);
        for (int j = 0; j < corners; ++j) corner[j].weight *= norm;
    }
}

// ------------------------------------------------------------------------------------------------------- mean field

struct Problem {
    const Lattice* lattice[2];
    float weight[2];
    const float* probabilities;  // labels x points
    const float* copies;         // labels: how many equal labels each stands for
    int labels;
    int iterations;
    float* marginals;  // labels x points
};

// Denormal products would slow the passes several times over.
class FlushDenormals {
  public:
#if defined(__SSE2__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#endif
};

template <class V, int C>
void infer(const Problem& problem, int count) {
    constexpr int kBlock = 16, lanes = Row<V, C>::kWidth;
    const int width = C ? C : count;
    const Lattice &near = *problem.lattice[0], &alike = *problem.lattice[1];
    const size_t points = near.points;
    const size_t sizes[2] = {static_cast<size_t>(near.vertices) * width, static_cast<size_t>(alike.vertices) * width};
    const float factors[2] = {problem.weight[0] * near.slice_factor(), problem.weight[1] * alike.slice_factor()};

    Buffer<V> priors(points * width);
    Buffer<V> tables(2 * (sizes[0] + sizes[1]));
    V share[Row<V, C>::kStored] = {};
    for (int k = 0; k < problem.labels; ++k) share[k / lanes][k % lanes] = 1.0f / problem.copies[k];
    float* prior = reinterpret_cast<float*>(priors.data());
    for (int k = 0; k < width * lanes; ++k) {
        const float* given = problem.probabilities + static_cast<size_t>(k) * points;
        const bool real = k < problem.labels;
        for (size_t i = 0; i < points; ++i) prior[i * width * lanes + k] = real ? given[i] * problem.copies[k] : 0.0f;
    }

    V* now = tables.data();
    V* then = now + sizes[0] + sizes[1];
    for (int step = 0; step <= problem.iterations; ++step) {
        const bool last = step == problem.iterations;
        if (step) {
            blur<V, C>(near, now, width);
            blur<V, C>(alike, now + sizes[0], width);
        }
        if (!last) std::memset(static_cast<void*>(then), 0, (sizes[0] + sizes[1]) * sizeof(V));
        for (size_t start = 0; start < points; start += kBlock) {
            const int block = static_cast<int>(std::min<size_t>(kBlock, points - start));
            alignas(64) V rows[kBlock * Row<V, C>::kStored];
            const V* prior_rows = priors.data() + start * width;
            if (step) {
                for (int p = 0; p < block; ++p) {
                    V* row = rows + p * width;
                    for (int c = 0; c < width; ++c) row[c] = V{};
                    gather<V, C>(near.corners.data() + (start + p) * 3, 3, now, width, factors[0], row);
                    gather<V, C>(alike.corners.data() + (start + p) * 6, 6, now + sizes[0], width, factors[1], row);
                }
                normalise_block<V, C, true>(rows, prior_rows, block, width, share);
            } else {
                normalise_block<V, C, false>(rows, prior_rows, block, width, share);
            }
            if (last) {
                for (int k = 0; k < problem.labels; ++k)
                    for (int p = 0; p < block; ++p)
                        problem.marginals[static_cast<size_t>(k) * points + start + p] = rows[p * width + k / lanes][k % lanes];
            } else {
                for (int p = 0; p < block; ++p) {
                    scatter<V, C>(near.corners.data() + (start + p) * 3, 3, then, width, rows + p * width);
                    scatter<V, C>(alike.corners.data() + (start + p) * 6, 6, then + sizes[0], width, rows + p * width);
                }
            }
        }
        std::swap(now, then);
    }
}

}  // namespace

// -------------------------------------------------------------------------------------------------------- interface

// The lattice of the pixel positions of a height x width image; null if the deviation is too small or memory is short.
EXPORT void* wsss_grid_lattice(int height, int width, float sxy) {
    try {
        if (height < 1 || width < 1 || !(sxy > 0)) return nullptr;
        const float extent[2] = {static_cast<float>(width) / sxy, static_cast<float>(height) / sxy};
        const size_t columns = static_cast<size_t>(width);
        return build<2>(columns * static_cast<size_t>(height), extent, [=](int axis, size_t point) {
                   return static_cast<float>(axis ? point / columns : point % columns) / sxy;
               }).release();
    } catch (...) {
        return nullptr;
    }
}

// The lattice of positions and colours of an interleaved 8-bit RGB image; null as above.
EXPORT void* wsss_colour_lattice(const uint8_t* image, int height, int width, float sxy, float srgb) {
    try {
        if (!image || height < 1 || width < 1 || !(sxy > 0) || !(srgb > 0)) return nullptr;
        const float colour = 255.0f / srgb;
        const float extent[5] = {static_cast<float>(width) / sxy, static_cast<float>(height) / sxy, colour, colour, colour};
        const size_t columns = static_cast<size_t>(width);
        return build<5>(columns * static_cast<size_t>(height), extent, [=](int axis, size_t point) {
                   if (axis >= 2) return static_cast<float>(image[point * 3 + static_cast<size_t>(axis) - 2]) / srgb;
                   return static_cast<float>(axis ? point / columns : point % columns) / sxy;
               }).release();
    } catch (...) {
        return nullptr;
    }
}

EXPORT void wsss_free_lattice(void* lattice) { delete static_cast<Lattice*>(lattice); }

// Marginals (labels x points) after mean field; 0, or 1 for arguments that don't fit, 2 when memory is short.
EXPORT int wsss_mean_field(
    const void* grid, float grid_weight, const void* colour, float colour_weight, const float* probabilities,
    const float* copies, int labels, int iterations, float* marginals) {
    const auto* near = static_cast<const Lattice*>(grid);
    const auto* alike = static_cast<const Lattice*>(colour);
    if (!near || !alike || !probabilities || !copies || !marginals || labels < 1 || labels > 8 * kMost || iterations < 0 ||
        near->dimensions != 2 || alike->dimensions != 5 || near->points != alike->points)
        return 1;
    const Problem problem{{near, alike}, {grid_weight, colour_weight}, probabilities, copies,
                          labels,        iterations, marginals};
    const FlushDenormals flush;
    try {
        if (labels <= 4) infer<Floats<4>, 1>(problem, 1);
        else if (labels <= 8) infer<Floats<8>, 1>(problem, 1);
        else if (labels <= 12) infer<Floats<4>, 3>(problem, 3);
        else if (labels <= 16) infer<Floats<8>, 2>(problem, 2);
        else if (labels <= 24) infer<Floats<8>, 3>(problem, 3);
        else infer<Floats<8>, 0>(problem, (labels + 7) / 8);
    } catch (const std::bad_alloc&) {
        return 2;
    }
    return 0;
}

// The x86-64 micro-architecture level that this processor reaches (1 to 4); 0 on other processors.
EXPORT int wsss_processor_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
        return 3;
    return 4;
#else
    return 0;
#endif
}
