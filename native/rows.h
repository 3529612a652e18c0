// Two sums a channel over rows in which the channels lie side by side, for moments and grad_moments.
#ifndef BATCHNORM_ROWS_H
#define BATCHNORM_ROWS_H

#include "channels.h"
#include "gradient.h"
#include "moments.h"
#include "simd.h"

namespace BN_ISA {

constexpr int64_t kRowsOfBlock = 16;  // values that one lane sums before they become doubles; see TwoSums

BN_INLINE void add_lanes(double *to, vdouble v, Whole) { store(to, load(to) + v); }
BN_INLINE void add_lanes(double *to, vfloat v, Whole) {
  vdouble wide[2] = {load(to), load(to + kLanes<double>)};
  add_to(wide, v);
  store(to, wide[0]);
  store(to + kLanes<double>, wide[1]);
}
template <class V> BN_INLINE void add_lanes(double *to, V v, Tail tail) {
  for (int i = 0; i < tail.lanes; ++i) to[i] += double(v[i]);
}

// Call term(row, i, lanes, a, b) for all values, and add what it summed to sum_a and sum_b; a cheap one for several
// vectors at once, which keeps the adders busy.
template <class S, bool kCheap, class Term>
BN_INLINE void sum_rows(int64_t rows, int64_t width, const uint8_t *mask, double *sum_a, double *sum_b, Term term) {
  using V = Vector<S>;
  constexpr int W = kLanes<S>;
  for (int64_t first = 0; first < rows; first += kRowsOfBlock) {
    const int64_t last = least(rows, first + kRowsOfBlock);
    int64_t i = 0;
    for (; kCheap && i + 4 * W <= width; i += 4 * W) {  // four vectors of channels
      V a[4] = {}, b[4] = {};
      for (int64_t row = first; row < last; ++row) {
        if (mask && !mask[row]) continue;
        for (int k = 0; k < 4; ++k) term(row, i + k * W, Whole{}, a[k], b[k]);
      }
      for (int k = 0; k < 4; ++k) {
        add_lanes(sum_a + i + k * W, a[k], Whole{});
        add_lanes(sum_b + i + k * W, b[k], Whole{});
      }
    }
    for_vectors<S>(width - i, [&](int64_t j, auto lanes) __attribute__((always_inline)) {  // or four rows at once
      V a[4] = {}, b[4] = {};
      int64_t row = first;
      if (kCheap && !mask)
        for (; row + 4 <= last; row += 4)
          for (int k = 0; k < 4; ++k) term(row + k, i + j, lanes, a[k], b[k]);
      for (; row < last; ++row)
        if (!mask || mask[row]) term(row, i + j, lanes, a[0], b[0]);
      add_lanes(sum_a + i + j, (a[0] + a[1]) + (a[2] + a[3]), lanes);
      add_lanes(sum_b + i + j, (b[0] + b[1]) + (b[2] + b[3]), lanes);
    });
  }
}

// Sums of x - rough and of its square; `rough` starts at the first of the `width` channels.
template <class T>
static __attribute__((noinline)) void moments_rows(const T *x, const uint8_t *mask, int64_t rows, int64_t stride,
                                                   int64_t width, const Compute<T> *rough, double *sum_a,
                                                   double *sum_b) {
  using S = Compute<T>;
  using V = Vector<S>;
  sum_rows<S, true>(rows, width, mask, sum_a, sum_b,
              [&](int64_t row, int64_t i, auto lanes, V &a, V &b) __attribute__((always_inline)) {
                const V around = load(rough + i, lanes, V{});
                V apart = load(x + row * stride + i, lanes, around) - around;
                a += apart;
                b = fma(apart, apart, b);
              });
}

// Sums of dy and dy * xhat.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_moments_rows(const T *grad_output, const T *x, const T *second,
                                                        const uint8_t *mask, int64_t rows, int64_t stride,
                                                        int64_t width, const Numbers<Compute<T>> &numbers, int64_t at,
                                                        Compute<T> parameter, double *sum_a, double *sum_b) {
  using S = Compute<T>;
  using V = Vector<S>;
  sum_rows<S, Act::kCheap>(rows, width, mask, sum_a, sum_b,
              [&](int64_t row, int64_t i, auto lanes, V &a, V &b) __attribute__((always_inline)) {
                const int64_t from = row * stride + i;
                const V high = load(numbers.high + at + i, lanes, V{});
                V value = load(x + from, lanes, high), grad = loaded(load(grad_output + from, lanes, V{}));
                V other = kReadsSecond<Act, kSecond> ? load(second + from, lanes, V{}) : V{};
                V dy = grad_pre_activation<Act, kSecond>(grad, value, other, high,
                                                         load(numbers.scale + at + i, lanes, V{}),
                                                         load(numbers.shift + at + i, lanes, V{}), parameter);
                a += dy;
                b = fma(dy, fma(value - high, load(numbers.invstd + at + i, lanes, V{}),
                                load(numbers.offset + at + i, lanes, V{})), b);
              });
}

}  // namespace BN_ISA
#endif
