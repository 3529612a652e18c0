// grad_moments and grad_input: the two passes of the backward, over a run of one channel or over rows of many.
//
// `second` is the residual of the forward, or its output for ReluOfOutput.
#ifndef BATCHNORM_GRADIENT_H
#define BATCHNORM_GRADIENT_H

#include "activations.h"
#include "channels.h"
#include "moments.h"
#include "normalize.h"
#include "simd.h"

namespace BN_ISA {

// The gradient before the activation.
template <class Act, bool kSecond, class V, class S>
BN_INLINE V grad_pre_activation(V grad, V x, V second, V high, V scale, V shift, S parameter) {
  if constexpr (!Act::kNeedsInput) {
    return grad;
  } else if constexpr (Act::kFromOutput) {
    return Act::backward(grad, second, parameter);
  } else {
    V z = pre_activation(x, high, scale, shift);
    if (kSecond) z += second;
    return Act::backward(grad, z, parameter);
  }
}

template <class Act, bool kSecond> constexpr bool kReadsSecond = kSecond && Act::kNeedsInput;

// Sums of dy and dy * xhat over one run.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_moments_run(const T *grad_output, const T *x, const T *second,
                                                       const uint8_t *mask, int64_t n,
                                                       const Numbers<Compute<T>> &numbers, int64_t at,
                                                       Compute<T> parameter, PairOfSums<Compute<T>> &sums) {
  using S = Compute<T>;
  using V = Vector<S>;
  constexpr int W = kLanes<S>;
  const V high = splat(numbers.high[at]), scale = splat(numbers.scale[at]), shift = splat(numbers.shift[at]);
  const V invstd = splat(numbers.invstd[at]), offset = splat(numbers.offset[at]);
  while (n > 0) {
    const int64_t length = sums.room(n);
    V a[4] = {sums.a}, b[4] = {sums.b};
    auto one = [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
      V value = load(x + i, lanes, high), grad = load(grad_output + i, lanes, V{});
      V other = kReadsSecond<Act, kSecond> ? load(second + i, lanes, V{}) : V{};
      V dy = grad_pre_activation<Act, kSecond>(grad, value, other, high, scale, shift, parameter);
      V xhat = fma(value - high, invstd, offset);
      if (mask) {
        auto keep = valid<S>(mask + i, lanes);
        dy = select(keep, dy, V{});
        xhat = select(keep, xhat, V{});
      }
      a[k] += dy;
      b[k] = fma(dy, xhat, b[k]);
    };
    int64_t i = 0;
    if (!mask)
      for (; i + 4 * W <= length; i += 4 * W)
        for (int k = 0; k < 4; ++k) one(i + k * W, Whole{}, k);
    for_vectors<S>(length - i, [&](int64_t j, auto lanes) __attribute__((always_inline)) { one(i + j, lanes, 0); });
    sums.a = (a[0] + a[1]) + (a[2] + a[3]);
    sums.b = (b[0] + b[1]) + (b[2] + b[3]);
    grad_output += length;
    x += length;
    if (second) second += length;
    if (mask) mask += length;
    n -= length;
  }
}

// dx and dy of one run; either may be unwanted.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_input_run(const T *grad_output, const T *x, const T *second,
                                                     const uint8_t *mask, T *grad_x, T *grad_residual, int64_t n,
                                                     const Numbers<Compute<T>> &numbers, int64_t at,
                                                     Compute<T> parameter) {
  using S = Compute<T>;
  using V = Vector<S>;
  const V high = splat(numbers.high[at]), scale = splat(numbers.scale[at]), shift = splat(numbers.shift[at]);
  const V invstd = splat(numbers.invstd[at]), offset = splat(numbers.offset[at]);
  const V slope = splat(numbers.slope[at]), base = splat(numbers.base[at]);
  for_vectors<S>(n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
    V value = load(x + i, lanes, high), grad = load(grad_output + i, lanes, V{});
    V other = kReadsSecond<Act, kSecond> ? load(second + i, lanes, V{}) : V{};
    V dy = grad_pre_activation<Act, kSecond>(grad, value, other, high, scale, shift, parameter);
    V xhat = numbers.through_statistics ? fma(value - high, invstd, offset) : V{};
    V dx = fma(fma(xhat, slope, dy), scale, base);
    if (mask) {
      auto keep = valid<S>(mask + i, lanes);
      dy = select(keep, dy, V{});
      dx = select(keep, dx, V{});
    }
    if (grad_residual) store(grad_residual + i, dy, lanes);
    if (grad_x) store(grad_x + i, dx, lanes);
  });
}

// As grad_input_run, over rows `stride` apart and `width` channels of each.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_input_rows(const T *grad_output, const T *x, const T *second,
                                                      const uint8_t *mask, T *grad_x, T *grad_residual, int64_t rows,
                                                      int64_t stride, int64_t width,
                                                      const Numbers<Compute<T>> &numbers, int64_t at,
                                                      Compute<T> parameter) {
  using S = Compute<T>;
  using V = Vector<S>;
  auto some = [&](int64_t row, auto count) __attribute__((always_inline)) {
    for_vectors<S>(width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
      const V high = load(numbers.high + at + i, lanes, V{}), scale = load(numbers.scale + at + i, lanes, V{});
      const V shift = load(numbers.shift + at + i, lanes, V{}), invstd = load(numbers.invstd + at + i, lanes, V{});
      const V offset = load(numbers.offset + at + i, lanes, V{}), slope = load(numbers.slope + at + i, lanes, V{});
      const V base = load(numbers.base + at + i, lanes, V{});
      for (int k = 0; k < decltype(count)::value; ++k) {
        const int64_t from = (row + k) * stride + i;
        V value = load(x + from, lanes, high), grad = load(grad_output + from, lanes, V{});
        V other = kReadsSecond<Act, kSecond> ? load(second + from, lanes, V{}) : V{};
        V dy = grad_pre_activation<Act, kSecond>(grad, value, other, high, scale, shift, parameter);
        V xhat = numbers.through_statistics ? fma(value - high, invstd, offset) : V{};
        if (grad_residual) store(grad_residual + from, dy, lanes);
        if (grad_x) store(grad_x + from, fma(fma(xhat, slope, dy), scale, base), lanes);
      }
    });
  };
  int64_t row = 0;
  if (!mask)
    for (; row + 4 <= rows; row += 4) some(row, Count<4>{});
  for (; row < rows; ++row) {
    if (!mask || mask[row]) {
      some(row, Count<1>{});
      continue;
    }
    for (int64_t i = 0; i < width; ++i) {
      if (grad_residual) grad_residual[row * stride + i] = T{};
      if (grad_x) grad_x[row * stride + i] = T{};
    }
  }
}

template <class T> struct GradientKernels {
  using S = Compute<T>;
  void (*moments_run)(const T *, const T *, const T *, const uint8_t *, int64_t, const Numbers<S> &, int64_t, S,
                      PairOfSums<S> &);
  void (*input_run)(const T *, const T *, const T *, const uint8_t *, T *, T *, int64_t, const Numbers<S> &, int64_t, S);
  void (*moments_rows)(const T *, const T *, const T *, const uint8_t *, int64_t, int64_t, int64_t, const Numbers<S> &,
                       int64_t, S, double *, double *);
  void (*input_rows)(const T *, const T *, const T *, const uint8_t *, T *, T *, int64_t, int64_t, int64_t,
                     const Numbers<S> &, int64_t, S);
};

}  // namespace BN_ISA
#endif
