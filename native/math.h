// exp, expm1, sigmoid and the normal distribution on vectors, without branches, tables or calls.
//
// Errors and how they were measured: docs/decisions/0007-vector-math.md; tests/native/test_math.py holds them.
// The reduction x = n ln(2) + r subtracts ln(2) in two parts, of which the first has so few bits that its product with
// n is exact: the processors without a fused multiply-add need that.
#ifndef BATCHNORM_MATH_H
#define BATCHNORM_MATH_H

#include "math_coefficients.h"
#include "several.h"
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
BN_INLINE vfloat minus_magnitude(vfloat v) { return (vfloat)(bits(v) | INT32_MIN); }
BN_INLINE vdouble minus_magnitude(vdouble v) { return (vdouble)(bits(v) | INT64_MIN); }
template <class S> using Bits = typename Layout<S>::unsigned_bits;
BN_INLINE vfloat upper_half_of(vfloat v) { return (vfloat)((vuint32)v & Layout<float>::upper_half); }
BN_INLINE vdouble upper_half_of(vdouble v) { return (vdouble)((vuint64)v & Layout<double>::upper_half); }

// 2^(n + more) of a number that has n in its last bits: what lies above is shifted out.
BN_INLINE vfloat power_of_2(vfloat shifted, int32_t more) {
  return (vfloat)(((vuint32)shifted + uint32_t(Layout<float>::bias + more)) << Layout<float>::mantissa);
}
BN_INLINE vdouble power_of_2(vdouble shifted, int64_t more) {
  return (vdouble)(((vuint64)shifted + uint64_t(Layout<double>::bias + more)) << Layout<double>::mantissa);
}

// v * 2^n, rounded once.
#if BN_VECTOR_BYTES == 64
// With a mask of all lanes: without one, GCC 12 warns of its own header.
BN_INLINE vfloat scale(vfloat v, vfloat n, vfloat) { return (vfloat)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)v, (__m512)n); }
BN_INLINE vdouble scale(vdouble v, vdouble n, vdouble) {
  return (vdouble)_mm512_maskz_scalef_pd(__mmask8(-1), (__m512d)v, (__m512d)n);
}
template <class V> BN_INLINE V scale_down(V v, V n, V shifted) { return scale(v, n, shifted); }
#else
template <class V> BN_INLINE V scale_by_halves(V v, V shifted) {
  // 2^n is not always a number where v * 2^n is.
  auto n = (Bits<Element<V>>)shifted, half = n >> 1;
  return v * power_of_2((V)half, 0) * power_of_2((V)(n - half), 0);
}
BN_INLINE vfloat scale(vfloat v, vfloat, vfloat shifted) { return scale_by_halves(v, shifted); }
BN_INLINE vdouble scale(vdouble v, vdouble, vdouble shifted) { return scale_by_halves(v, shifted); }
// For n <= 0: away from the subnormal numbers first, and back with the only rounding.
template <class V> BN_INLINE V scale_down(V v, V, V shifted) {
  using L = Layout<Element<V>>;
  return v * power_of_2(shifted, (L::bias + 1) / 2) * splat(1 / L::far);
}
#endif

// The same for several vectors.
template <class V> BN_INLINE Two<V> magnitude(Two<V> v) { return {magnitude(v.first), magnitude(v.second)}; }
template <class V> BN_INLINE Two<V> minus_magnitude(Two<V> v) { return {minus_magnitude(v.first), minus_magnitude(v.second)}; }
template <class V> BN_INLINE Two<V> upper_half_of(Two<V> v) { return {upper_half_of(v.first), upper_half_of(v.second)}; }
template <class V> BN_INLINE Two<V> power_of_2(Two<V> shifted, int more) {
  return {power_of_2(shifted.first, more), power_of_2(shifted.second, more)};
}
template <class V> BN_INLINE Two<V> scale(Two<V> v, Two<V> n, Two<V> shifted) {
  return {scale(v.first, n.first, shifted.first), scale(v.second, n.second, shifted.second)};
}
template <class V> BN_INLINE Two<V> scale_down(Two<V> v, Two<V> n, Two<V> shifted) {
  return {scale_down(v.first, n.first, shifted.first), scale_down(v.second, n.second, shifted.second)};
}

template <class S, int count, class V> BN_INLINE V polynomial(const S (&coefficients)[count], V v) {
  V result = fma(splat(coefficients[count - 1]), v, splat(coefficients[count - 2]));
  for (int i = count - 3; i >= 0; --i) result = fma(result, v, splat(coefficients[i]));
  return result;
}

// A number as n ln(2) + high - low; `shifted` has n in its last bits.
template <class V> struct Reduced {
  V n, shifted, high, low;
  // high - low; with a fused multiply-add the product is not rounded.
  BN_MEMBER V rest() const { return fma(n, splat(-Coefficients<Element<V>>::ln2_low), high); }
};

template <class V> BN_INLINE Reduced<V> reduce(V v, V rough, Element<V> log2_of_base) {
  using S = Element<V>;
  using C = Coefficients<S>;
  Reduced<V> reduced;
  reduced.shifted = fma(rough, splat(log2_of_base), splat(Layout<S>::shifter));
  reduced.n = reduced.shifted - splat(Layout<S>::shifter);
  reduced.high = fma(reduced.n, splat(-C::ln2_high), v);
  reduced.low = reduced.n * splat(C::ln2_low);
  return reduced;
}

// expm1(r) / r and exp(r) for |r| <= ln(2) / 2.
template <class V> BN_INLINE V expm1_ratio(V r) {
  return fma(polynomial(Coefficients<Element<V>>::exp, r), r, splat(Element<V>(1)));
}
template <class V> BN_INLINE V exp_reduced(V r) { return fma(expm1_ratio(r), r, splat(Element<V>(1))); }

template <class V> BN_INLINE V exp(V v) {
  using C = Coefficients<Element<V>>;
  v = at_most(at_least(v, splat(C::underflow)), splat(C::overflow));
  Reduced<V> by = reduce(v, v, C::log2_e);
  return scale(exp_reduced(by.rest()), by.n, by.shifted);
}

template <class V> BN_INLINE V expm1(V v) {
  // 2^n (1 + r + r^2 Q(r)) - 1, of which 2^n r + (2^n - 1) is nearly exact, if the low part of r waits for the rest.
  // At half the size, since 2^n may be beyond the largest number where the result is not.
  using S = Element<V>;
  using C = Coefficients<S>;
  using L = Layout<S>;
  V x = at_most(at_least(v, splat(S(-L::mantissa))), splat(C::overflow));
  Reduced<V> reduced = reduce(x, x, C::log2_e);
  V r = reduced.rest();
  V rest = fma(r * r, polynomial(C::exp, r), -reduced.low);
  V half = power_of_2(reduced.shifted, -1);
  V result = fma(half, rest, fma(half, reduced.high, half - splat(S(0.5))));
  return select(magnitude(v) < splat(L::negligible), v, result + result);
}

// 1 / (1 + exp(-v))
template <class V> BN_INLINE V sigmoid(V v) {
  using S = Element<V>;
  using C = Coefficients<S>;
  V x = at_least(minus_magnitude(v), splat(C::underflow));
  Reduced<V> by = reduce(x, x, C::log2_e);
  V e = scale_down(exp_reduced(by.rest()), by.n, by.shifted);
  // e / (1 + e) and 1 / (1 + e) as e (1 - y) and 1 - y: the roundings of the sum and the quotient count less.
  V y = e / (splat(S(1)) + e), of = select(v < splat(S(0)), e, splat(S(1)));
  return fma(-y, of, of);
}

// exp(r) 2^n is the normal density at t = |v|.
template <class V> struct Density {
  V t, r;
  Reduced<V> by;
};

template <class V> BN_INLINE Density<V> density(V v) {
  // A rounding of t^2 would be multiplied by t^2. The upper half of t is squared without one; what is missing is small
  // enough to be added to r.
  using S = Element<V>;
  using C = Coefficients<S>;
  Density<V> result;
  V t = at_most(magnitude(v), splat(C::vanished));
  Vector<S> minus_half = splat(S(-0.5));
  V upper = upper_half_of(t);
  V missing = fma((t - upper) * minus_half, t + upper, splat(C::log_density_low));
  result.t = t;
  result.by = reduce<V>(upper * upper * minus_half, fma(t, t, splat(-2 * C::log_density_high)), C::log2_e / -2);
  result.r = (result.by.high + splat(C::log_density_high)) + (missing - result.by.low);
  return result;
}

// exp(-v^2 / 2) / sqrt(2 pi)
template <class V> BN_INLINE V normal_pdf(V v) {
  Density<V> at = density(v);
  return scale_down(exp_reduced(at.r), at.by.n, at.by.shifted);
}

// erfc(-v / sqrt(2)) / 2
template <class V> BN_INLINE V normal_cdf(V v) {
  using S = Element<V>;
  using C = Coefficients<S>;
  Density<V> at = density(v);
  V mills = polynomial(C::mills, at.t), rest = polynomial(C::mills_rest, at.t);
  V above = fma(expm1_ratio(at.r) * at.r, mills, mills);  // exp(r) mills with one large rounding
  V tail = scale_down<V>(above / fma(at.t, mills, rest), at.by.n, at.by.shifted);
  // Near 0 the roundings of the tail's factors would add up to 4 ulp.
  V central = fma(v, polynomial(C::central, at.t * at.t), splat(S(0.5)));
  V result = select(v > splat(S(0)), splat(S(1)) - tail, tail);
  return select(at.t < splat(C::central_end), central, result);
}

}  // namespace BN_ISA
#endif
