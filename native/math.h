// exp, expm1, sigmoid and the normal distribution on vectors, without branches, tables or calls.
//
// Errors and how they were measured: docs/decisions/0007-vector-math.md; tests/native/test_math.py holds them.
// The reduction x = n ln(2) + r subtracts ln(2) in two parts, of which the first has so few bits that its product with
// n is exact: the processors without a fused multiply-add need that.
#ifndef BATCHNORM_MATH_H
#define BATCHNORM_MATH_H

#include "math_coefficients.h"
#include "simd.h"

namespace BN_ISA {

typedef uint64_t vuint64 __attribute__((vector_size(BN_VECTOR_BYTES)));

template <class S> struct Layout;
template <> struct Layout<float> {
  using unsigned_bits = vuint32;
  static constexpr int mantissa = 23;
  static constexpr int32_t bias = 127;
  static constexpr float shifter = 0x1.8p23f;  // added to a number, it leaves the nearest integer in the last bits
  static constexpr float far = 0x1p64f;        // see scale_down
  static constexpr float negligible = 0x1p-26f;
  static constexpr uint32_t upper_half = 0xfffff000u;  // 12 of 24 bits: the square is exact
};
template <> struct Layout<double> {
  using unsigned_bits = vuint64;
  static constexpr int mantissa = 52;
  static constexpr int64_t bias = 1023;
  static constexpr double shifter = 0x1.8p52;
  static constexpr double far = 0x1p512;
  static constexpr double negligible = 0x1p-55;
  static constexpr uint64_t upper_half = 0xfffffffff8000000u;  // 26 of 53 bits
};

BN_INLINE vfloat magnitude(vfloat v) { return (vfloat)(bits(v) & 0x7fffffff); }
BN_INLINE vdouble magnitude(vdouble v) { return (vdouble)(bits(v) & 0x7fffffffffffffff); }

template <class S, int count> BN_INLINE Vector<S> polynomial(const S (&coefficients)[count], Vector<S> v) {
  Vector<S> result = splat(coefficients[count - 1]);
  for (int i = count - 2; i >= 0; --i) result = fma(result, v, splat(coefficients[i]));
  return result;
}

// A number as n ln(2) + high - low; `shifted` has n in its last bits.
template <class S> struct Reduced {
  Vector<S> n, shifted, high, low;
};

template <class S> BN_INLINE Reduced<S> reduce(Vector<S> v, Vector<S> rough, S log2_of_base) {
  using C = Coefficients<S>;
  Reduced<S> reduced;
  reduced.shifted = fma(rough, splat(log2_of_base), splat(Layout<S>::shifter));
  reduced.n = reduced.shifted - splat(Layout<S>::shifter);
  reduced.high = fma(reduced.n, splat(-C::ln2_high), v);
  reduced.low = reduced.n * splat(C::ln2_low);
  return reduced;
}

// expm1(r) / r and exp(r) for |r| <= ln(2) / 2.
template <class S> BN_INLINE Vector<S> expm1_ratio(Vector<S> r) {
  return fma(polynomial<S>(Coefficients<S>::exp, r), r, splat(S(1)));
}
template <class S> BN_INLINE Vector<S> exp_reduced(Vector<S> r) {
  return fma(expm1_ratio<S>(r), r, splat(S(1)));
}

template <class S> BN_INLINE Vector<S> power_of_2(typename Layout<S>::unsigned_bits biased) {
  return (Vector<S>)(biased << Layout<S>::mantissa);
}

// v * 2^n, rounded once.
#if BN_VECTOR_BYTES == 64
// With a mask of all lanes: without one, GCC 12 warns of its own header.
BN_INLINE vfloat scale(vfloat v, const Reduced<float> &by) {
  return (vfloat)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)v, (__m512)by.n);
}
BN_INLINE vdouble scale(vdouble v, const Reduced<double> &by) {
  return (vdouble)_mm512_maskz_scalef_pd(__mmask8(-1), (__m512d)v, (__m512d)by.n);
}
template <class S> BN_INLINE Vector<S> scale_down(Vector<S> v, const Reduced<S> &by) { return scale(v, by); }
#else
template <class S> BN_INLINE Vector<S> scale(Vector<S> v, const Reduced<S> &by) {
  // 2^n is not always a number where v * 2^n is: in two halves. What lies above n in `shifted` is shifted out.
  using Bits = typename Layout<S>::unsigned_bits;
  Bits n = (Bits)by.shifted, half = n >> 1;
  return v * power_of_2<S>(half + Layout<S>::bias) * power_of_2<S>(n - half + Layout<S>::bias);
}
// For n <= 0: away from the subnormal numbers first, and back with the only rounding.
template <class S> BN_INLINE Vector<S> scale_down(Vector<S> v, const Reduced<S> &by) {
  using Bits = typename Layout<S>::unsigned_bits;
  constexpr int away = (Layout<S>::bias + 1) / 2;
  return v * power_of_2<S>((Bits)by.shifted + (Layout<S>::bias + away)) * splat(1 / Layout<S>::far);
}
#endif

template <class S> BN_INLINE Vector<S> exp_any(Vector<S> v) {
  using C = Coefficients<S>;
  v = at_most(at_least(v, splat(C::underflow)), splat(C::overflow));
  Reduced<S> reduced = reduce<S>(v, v, C::log2_e);
  return scale(exp_reduced<S>(reduced.high - reduced.low), reduced);
}

template <class S> BN_INLINE Vector<S> expm1_any(Vector<S> v) {
  // 2^n (1 + r + r^2 Q(r)) - 1, of which 2^n r + (2^n - 1) is nearly exact, if the low part of r waits for the rest.
  // At half the size, since 2^n may be beyond the largest number where the result is not.
  using C = Coefficients<S>;
  using L = Layout<S>;
  Vector<S> x = at_most(at_least(v, splat(S(-L::mantissa))), splat(C::overflow));
  Reduced<S> reduced = reduce<S>(x, x, C::log2_e);
  Vector<S> r = reduced.high - reduced.low;
  Vector<S> rest = fma(r * r, polynomial<S>(C::exp, r), -reduced.low);
  Vector<S> half = power_of_2<S>((typename L::unsigned_bits)reduced.shifted + (L::bias - 1));
  Vector<S> result = fma(half, rest, fma(half, reduced.high, half - splat(S(0.5))));
  return select(magnitude(v) < splat(L::negligible), v, result + result);
}

template <class S> BN_INLINE Vector<S> sigmoid_any(Vector<S> v) {
  using C = Coefficients<S>;
  Vector<S> x = at_least(-magnitude(v), splat(C::underflow)), one = splat(S(1));
  Reduced<S> reduced = reduce<S>(x, x, C::log2_e);
  Vector<S> e = scale_down<S>(exp_reduced<S>(reduced.high - reduced.low), reduced);
  // e / (1 + e) and 1 / (1 + e) as e (1 - y) and 1 - y: the roundings of the sum and the quotient count less.
  Vector<S> y = e / (one + e), of = select(v < splat(S(0)), e, one);
  return fma(-y, of, of);
}

// exp(r) 2^n is the normal density at t = |v|.
template <class S> struct Density {
  Vector<S> t, r;
  Reduced<S> reduced;
};

template <class S> BN_INLINE Density<S> density(Vector<S> v) {
  // A rounding of t^2 would be multiplied by t^2. The upper half of t is squared without one; what is missing is small
  // enough to be added to r.
  using C = Coefficients<S>;
  using Bits = typename Layout<S>::unsigned_bits;
  Density<S> result;
  Vector<S> t = at_most(magnitude(v), splat(C::vanished)), minus_half = splat(S(-0.5));
  Vector<S> upper = (Vector<S>)((Bits)t & Layout<S>::upper_half);
  Vector<S> missing = fma((t - upper) * minus_half, t + upper, splat(C::log_density_low));
  result.t = t;
  result.reduced =
      reduce<S>(upper * upper * minus_half, fma(t, t, splat(-2 * C::log_density_high)), C::log2_e / -2);
  result.r = (result.reduced.high + splat(C::log_density_high)) + (missing - result.reduced.low);
  return result;
}

template <class S> BN_INLINE Vector<S> normal_pdf_any(Vector<S> v) {
  Density<S> at = density<S>(v);
  return scale_down<S>(exp_reduced<S>(at.r), at.reduced);
}

template <class S> BN_INLINE Vector<S> normal_cdf_any(Vector<S> v) {
  using C = Coefficients<S>;
  Density<S> at = density<S>(v);
  Vector<S> mills = polynomial<S>(C::mills, at.t), rest = polynomial<S>(C::mills_rest, at.t);
  Vector<S> above = fma(expm1_ratio<S>(at.r) * at.r, mills, mills);  // exp(r) mills with one large rounding
  Vector<S> tail = scale_down<S>(above / fma(at.t, mills, rest), at.reduced);
  // Near 0 the roundings of the tail's factors would add up to 4 ulp.
  Vector<S> central = fma(v, polynomial<S>(C::central, at.t * at.t), splat(S(0.5)));
  Vector<S> result = select(v > splat(S(0)), splat(S(1)) - tail, tail);
  return select(at.t < splat(C::central_end), central, result);
}

BN_INLINE vfloat exp(vfloat v) { return exp_any<float>(v); }
BN_INLINE vdouble exp(vdouble v) { return exp_any<double>(v); }
BN_INLINE vfloat expm1(vfloat v) { return expm1_any<float>(v); }
BN_INLINE vdouble expm1(vdouble v) { return expm1_any<double>(v); }
// 1 / (1 + exp(-v))
BN_INLINE vfloat sigmoid(vfloat v) { return sigmoid_any<float>(v); }
BN_INLINE vdouble sigmoid(vdouble v) { return sigmoid_any<double>(v); }
// erfc(-v / sqrt(2)) / 2
BN_INLINE vfloat normal_cdf(vfloat v) { return normal_cdf_any<float>(v); }
BN_INLINE vdouble normal_cdf(vdouble v) { return normal_cdf_any<double>(v); }
// exp(-v^2 / 2) / sqrt(2 pi)
BN_INLINE vfloat normal_pdf(vfloat v) { return normal_pdf_any<float>(v); }
BN_INLINE vdouble normal_pdf(vdouble v) { return normal_pdf_any<double>(v); }

}  // namespace BN_ISA
#endif
