// What every kernel here is made of: the compiler's vectors, memory that suits them, functions that Python calls.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

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

// The widest vectors of the target: rows of many labels, and pixels whose labels are normalised together.
#if defined(__AVX__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
using Wide = Floats<kWide>;

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

}  // namespace
