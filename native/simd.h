// Vectors of one instruction set: compiler vector types for the arithmetic, intrinsics only where there is no other way.
//
// Included once by each file of isa/, which names the namespace (BN_ISA) and the width (BN_VECTOR_BYTES). Everything is
// forced inline and nothing comes from the standard library's templates: the linker could keep one copy of a function
// for all instruction sets, and an old processor would run into the newest one's instructions.
#ifndef BATCHNORM_SIMD_H
#define BATCHNORM_SIMD_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define BN_INLINE static inline __attribute__((always_inline))
#define BN_MEMBER inline __attribute__((always_inline))

namespace BN_ISA {

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

typedef float vfloat __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef double vdouble __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef int32_t vint32 __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef uint32_t vuint32 __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef int64_t vint64 __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef uint16_t vuint16 __attribute__((vector_size(BN_VECTOR_BYTES / 2)));
typedef float vfloat_half __attribute__((vector_size(BN_VECTOR_BYTES / 2)));

// Storage type -> the type one element is computed in.
template <class T> struct ComputeOf { using type = float; };
template <> struct ComputeOf<double> { using type = double; };
template <class T> using Compute = typename ComputeOf<T>::type;

template <class S> struct VectorOf;
template <> struct VectorOf<float> {
  using type = vfloat;
  using mask = vint32;
  using integer = int32_t;
};
template <> struct VectorOf<double> {
  using type = vdouble;
  using mask = vint64;
  using integer = int64_t;
};
template <class S> using Vector = typename VectorOf<S>::type;
template <class S> using Mask = typename VectorOf<S>::mask;
template <class S> constexpr int kLanes = BN_VECTOR_BYTES / int(sizeof(S));

BN_INLINE vfloat splat(float value) { return value - vfloat{}; }
BN_INLINE vdouble splat(double value) { return value - vdouble{}; }

BN_INLINE vfloat select(vint32 mask, vfloat yes, vfloat no) { return mask ? yes : no; }
BN_INLINE vdouble select(vint64 mask, vdouble yes, vdouble no) { return mask ? yes : no; }

BN_INLINE vint32 bits(vfloat v) { return (vint32)v; }
BN_INLINE vint64 bits(vdouble v) { return (vint64)v; }

// a * b + c, rounded once where the processor can.
BN_INLINE vfloat fma(vfloat a, vfloat b, vfloat c) {
#if BN_VECTOR_BYTES == 64
  return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif BN_VECTOR_BYTES == 32
  return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vfloat)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

BN_INLINE vdouble fma(vdouble a, vdouble b, vdouble c) {
#if BN_VECTOR_BYTES == 64
  return (vdouble)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif BN_VECTOR_BYTES == 32
  return (vdouble)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (vdouble)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

// Not below and not above `limit`; NaN stays NaN, and of two zeros v stays: the processors' instructions do just that with
// their operands in this order, and compilers do not find them.
#if BN_VECTOR_BYTES == 64  // with a mask of all lanes: without one, GCC 12 warns of its own header
BN_INLINE vfloat at_least(vfloat v, vfloat limit) { return (vfloat)_mm512_maskz_max_ps(__mmask16(-1), (__m512)limit, (__m512)v); }
BN_INLINE vdouble at_least(vdouble v, vdouble limit) { return (vdouble)_mm512_maskz_max_pd(__mmask8(-1), (__m512d)limit, (__m512d)v); }
BN_INLINE vfloat at_most(vfloat v, vfloat limit) { return (vfloat)_mm512_maskz_min_ps(__mmask16(-1), (__m512)limit, (__m512)v); }
BN_INLINE vdouble at_most(vdouble v, vdouble limit) { return (vdouble)_mm512_maskz_min_pd(__mmask8(-1), (__m512d)limit, (__m512d)v); }
#elif BN_VECTOR_BYTES == 32
BN_INLINE vfloat at_least(vfloat v, vfloat limit) { return (vfloat)_mm256_max_ps((__m256)limit, (__m256)v); }
BN_INLINE vdouble at_least(vdouble v, vdouble limit) { return (vdouble)_mm256_max_pd((__m256d)limit, (__m256d)v); }
BN_INLINE vfloat at_most(vfloat v, vfloat limit) { return (vfloat)_mm256_min_ps((__m256)limit, (__m256)v); }
BN_INLINE vdouble at_most(vdouble v, vdouble limit) { return (vdouble)_mm256_min_pd((__m256d)limit, (__m256d)v); }
#else
BN_INLINE vfloat at_least(vfloat v, vfloat limit) { return v < limit ? limit : v; }
BN_INLINE vdouble at_least(vdouble v, vdouble limit) { return v < limit ? limit : v; }
BN_INLINE vfloat at_most(vfloat v, vfloat limit) { return limit < v ? limit : v; }
BN_INLINE vdouble at_most(vdouble v, vdouble limit) { return limit < v ? limit : v; }
#endif

// Lanes 0 .. n-1 true.
template <class S> BN_INLINE Mask<S> first_lanes(int n) {
  using Integer = typename VectorOf<S>::integer;
  Mask<S> lane;
  for (int i = 0; i < kLanes<S>; ++i) lane[i] = i;
  return lane < (Integer(n) - Mask<S>{});
}

// Keeps a load where it stands. Compilers fold it into a later select as a masked load, which then waits for the mask:
// backward of relu over rows took twice as long.
template <class V> BN_INLINE V loaded(V v) {
#if BN_VECTOR_BYTES == 64
  __asm__("" : "+v"(v));
#elif defined(__x86_64__)
  __asm__("" : "+x"(v));
#else
  __asm__("" : "+w"(v));
#endif
  return v;
}

// Half-precision numbers in and out of vectors of float. Compilers split the generic conversions into many steps.

#if BN_VECTOR_BYTES == 64
BN_INLINE vuint32 widened(vuint16 raw) { return (vuint32)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)raw); }
BN_INLINE vuint16 lower_halves(vuint32 v) { return (vuint16)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)v); }
#elif BN_VECTOR_BYTES == 32
BN_INLINE vuint32 widened(vuint16 raw) { return (vuint32)_mm256_cvtepu16_epi32((__m128i)raw); }
BN_INLINE vuint16 lower_halves(vuint32 v) {  // of numbers below 2^16
  __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);
  return (vuint16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
#else
BN_INLINE vuint32 widened(vuint16 raw) { return __builtin_convertvector(raw, vuint32); }
BN_INLINE vuint16 lower_halves(vuint32 v) { return __builtin_convertvector(v, vuint16); }
#endif

BN_INLINE vfloat widen(vuint16 raw, bfloat16) { return (vfloat)(widened(raw) << 16); }

// The upper half of the result is the bfloat16: to nearest, ties to even.
BN_INLINE vuint32 rounded_to_bfloat16(vfloat v) {
  vuint32 raw = (vuint32)v, rounded = raw + 0x7fffu + ((raw >> 16) & 1u);
  return (vuint32)(v == v ? (vint32)rounded : (vint32)(0x7fc00000u - vuint32{}));
}
BN_INLINE vuint16 narrow(vfloat v, bfloat16) { return lower_halves(rounded_to_bfloat16(v) >> 16); }

#if BN_VECTOR_BYTES == 64
BN_INLINE vfloat widen(vuint16 raw, float16) { return (vfloat)_mm512_cvtph_ps((__m256i)raw); }
BN_INLINE vuint16 narrow(vfloat v, float16) { return (vuint16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT); }
#elif BN_VECTOR_BYTES == 32
BN_INLINE vfloat widen(vuint16 raw, float16) { return (vfloat)_mm256_cvtph_ps((__m128i)raw); }
BN_INLINE vuint16 narrow(vfloat v, float16) { return (vuint16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
BN_INLINE vfloat widen(vuint16 raw, float16) { return (vfloat)vcvt_f32_f16((float16x4_t)raw); }
BN_INLINE vuint16 narrow(vfloat v, float16) { return (vuint16)vcvt_f16_f32((float32x4_t)v); }
#else
// A processor without conversions: shift the bits, and let float arithmetic do the rounding of the small numbers.
BN_INLINE vfloat widen(vuint16 raw, float16) {
  vuint32 wide = widened(raw);
  vuint32 sign = (wide & 0x8000u) << 16, magnitude = (wide & 0x7fffu) << 13;
  vfloat scaled = (vfloat)magnitude * 0x1p112f;  // 2^(127 - 15): exact, subnormals included
  vint32 special = (vint32)(magnitude >= (0x7c00u << 13));
  vuint32 result = (vuint32)(special ? (vint32)(magnitude | 0x7f800000u) : (vint32)scaled);
  return (vfloat)(result | sign);
}
BN_INLINE vuint16 narrow(vfloat v, float16) {
  vuint32 raw = (vuint32)v, sign = (raw >> 16) & 0x8000u, magnitude = raw & 0x7fffffffu;
  // Normal results: round the 13 bits that go, to nearest and ties to even, and move the exponent's bias.
  vuint32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 puts their last bit at the end of the float's mantissa, rounded.
  vuint32 small = (vuint32)((vfloat)magnitude + 0.5f) - 0x3f000000u;
  vint32 is_small = (vint32)(magnitude < (113u << 23));
  vint32 is_large = (vint32)(magnitude >= (143u << 23));
  vint32 is_nan = (vint32)(magnitude > 0x7f800000u);
  vint32 result = is_small ? (vint32)small : (vint32)normal;
  result = is_large ? (vint32)(0x7c00u - vuint32{}) : result;
  result = is_nan ? (vint32)(0x7e00u - vuint32{}) : result;
  return lower_halves((vuint32)result | sign);
}
#endif

// Whole vectors.

BN_INLINE vfloat load(const float *from) {
  vfloat v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
BN_INLINE vdouble load(const double *from) {
  vdouble v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class T> BN_INLINE vfloat load(const T *from) {
  vuint16 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return widen(raw, T{});
}

BN_INLINE void store(float *to, vfloat v) { __builtin_memcpy(to, &v, sizeof v); }
BN_INLINE void store(double *to, vdouble v) { __builtin_memcpy(to, &v, sizeof v); }
template <class T> BN_INLINE void store(T *to, vfloat v) {
  vuint16 raw = narrow(v, T{});
  __builtin_memcpy(to, &raw, sizeof raw);
}

// The first n lanes; the others are `fill`.

#if BN_VECTOR_BYTES == 64
BN_INLINE vfloat load(const float *from, int n, vfloat fill) {
  return (vfloat)_mm512_mask_loadu_ps((__m512)fill, __mmask16((1u << n) - 1), from);
}
BN_INLINE vdouble load(const double *from, int n, vdouble fill) {
  return (vdouble)_mm512_mask_loadu_pd((__m512d)fill, __mmask8((1u << n) - 1), from);
}
template <class T> BN_INLINE vfloat load(const T *from, int n, vfloat fill) {
  __mmask16 lanes = __mmask16((1u << n) - 1);
  vuint16 raw = (vuint16)_mm256_maskz_loadu_epi16(lanes, from);
  return (vfloat)_mm512_mask_mov_ps((__m512)fill, lanes, (__m512)widen(raw, T{}));
}
BN_INLINE void store(float *to, vfloat v, int n) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), (__m512)v);
}
BN_INLINE void store(double *to, vdouble v, int n) {
  _mm512_mask_storeu_pd(to, __mmask8((1u << n) - 1), (__m512d)v);
}
template <class T> BN_INLINE void store(T *to, vfloat v, int n) {
  _mm256_mask_storeu_epi16(to, __mmask16((1u << n) - 1), (__m256i)narrow(v, T{}));
}
#else
template <class T, class V> BN_INLINE V load(const T *from, int n, V fill) {
  using S = Compute<T>;
  T buffer[kLanes<S>] = {};
  for (int i = 0; i < n; ++i) buffer[i] = from[i];
  return select(first_lanes<S>(n), load(buffer), fill);
}
template <class T, class V> BN_INLINE void store(T *to, V v, int n) {
  T buffer[kLanes<Compute<T>>];
  store(buffer, v);
  for (int i = 0; i < n; ++i) to[i] = buffer[i];
}
#endif

// Past the caches where `past` says so and the address is a multiple of the vector's size.
BN_INLINE void stream_aligned(void *to, const void *v, int bytes) {
#if defined(__x86_64__)
#if BN_VECTOR_BYTES == 64
  if (bytes == 64) return _mm512_stream_si512((__m512i *)to, *(const __m512i *)v);
#endif
#if BN_VECTOR_BYTES >= 32
  if (bytes == 32) return _mm256_stream_si256((__m256i *)to, *(const __m256i *)v);
#endif
  if (bytes == 16) return _mm_stream_si128((__m128i *)to, *(const __m128i *)v);
#endif
  __builtin_memcpy(to, v, size_t(bytes));
}
template <class T, class V> BN_INLINE void store_or_stream(T *to, V v, bool past) {
  constexpr int kBytes = kLanes<Compute<T>> * int(sizeof(T));
  if (!past || uintptr_t(to) % kBytes != 0) return store(to, v);
  alignas(kBytes) T buffer[kLanes<Compute<T>>];
  store(buffer, v);
  stream_aligned(to, buffer, kBytes);
}

// Lanes whose byte is not 0.
#if BN_VECTOR_BYTES == 64
BN_INLINE vint32 nonzero(const uint8_t *from, float) {
  __m128i raw = _mm_loadu_si128((const __m128i *)from);
  return (vint32)_mm512_movm_epi32(_mm_test_epi8_mask(raw, raw));
}
BN_INLINE vint64 nonzero(const uint8_t *from, double) {
  __m128i raw = _mm_loadl_epi64((const __m128i *)from);
  return (vint64)_mm512_movm_epi64(__mmask8(_mm_test_epi8_mask(raw, raw)));
}
#elif BN_VECTOR_BYTES == 32
BN_INLINE vint32 nonzero(const uint8_t *from, float) {
  return (vint32)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)) != 0;
}
BN_INLINE vint64 nonzero(const uint8_t *from, double) {
  int32_t raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return (vint64)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(raw)) != 0;
}
#else
template <class S> BN_INLINE Mask<S> nonzero(const uint8_t *from, S) {
  Mask<S> lanes = {};
  for (int i = 0; i < kLanes<S>; ++i) lanes[i] = from[i];
  return lanes != 0;
}
#endif

// A loop over n values calls its body with Whole, and once with Tail for what is left.
struct Whole {};
struct Tail { int lanes; };

template <class T, class V> BN_INLINE V load(const T *from, Whole, V) { return load(from); }
template <class T, class V> BN_INLINE V load(const T *from, Tail tail, V fill) { return load(from, tail.lanes, fill); }
template <class T, class V> BN_INLINE void store(T *to, V v, Whole) { store(to, v); }
template <class T, class V> BN_INLINE void store(T *to, V v, Tail tail) { store(to, v, tail.lanes); }
template <class T, class V> BN_INLINE void store(T *to, V v, Whole, bool past) { store_or_stream(to, v, past); }
template <class T, class V> BN_INLINE void store(T *to, V v, Tail tail, bool) { store(to, v, tail.lanes); }
template <class S> BN_INLINE Mask<S> valid(const uint8_t *from, Whole) { return nonzero(from, S{}); }
template <class S> BN_INLINE Mask<S> valid(const uint8_t *from, Tail tail) {
#if BN_VECTOR_BYTES == 64
  uint8_t buffer[16];
  _mm_storeu_si128((__m128i *)buffer, _mm_maskz_loadu_epi8(__mmask16((1u << tail.lanes) - 1), from));
#else
  uint8_t buffer[kLanes<S>] = {};
  for (int i = 0; i < tail.lanes; ++i) buffer[i] = from[i];
#endif
  return nonzero(buffer, S{});
}

template <class S, class Body> BN_INLINE void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes<S> <= n; i += kLanes<S>) body(i, Whole{});
  if (i < n) body(i, Tail{int(n - i)});
}

// Ask for what the next block needs: processors do not foresee rows that lie far apart. Past the end it does no harm.
template <class T> BN_INLINE void prefetch(const T *at) { __builtin_prefetch(at); }

// Lane by lane into doubles. A copy of half of v in memory would keep the sums of the calling loop there too.
#if BN_VECTOR_BYTES == 64
BN_INLINE vfloat_half lower_half(vfloat v) { return (vfloat_half)_mm512_castps512_ps256((__m512)v); }
BN_INLINE vfloat_half upper_half(vfloat v) { return (vfloat_half)_mm512_extractf32x8_ps((__m512)v, 1); }
#elif BN_VECTOR_BYTES == 32
BN_INLINE vfloat_half lower_half(vfloat v) { return (vfloat_half)_mm256_castps256_ps128((__m256)v); }
BN_INLINE vfloat_half upper_half(vfloat v) { return (vfloat_half)_mm256_extractf128_ps((__m256)v, 1); }
#else
BN_INLINE vfloat_half lower_half(vfloat v) { return __builtin_shufflevector(v, v, 0, 1); }
BN_INLINE vfloat_half upper_half(vfloat v) { return __builtin_shufflevector(v, v, 2, 3); }
#endif
#if BN_VECTOR_BYTES == 64  // GCC 12 splits the generic conversion
BN_INLINE vdouble widened(vfloat_half v) { return (vdouble)_mm512_maskz_cvtps_pd(0xff, (__m256)v); }
#elif BN_VECTOR_BYTES == 32
BN_INLINE vdouble widened(vfloat_half v) { return (vdouble)_mm256_cvtps_pd((__m128)v); }
#else
BN_INLINE vdouble widened(vfloat_half v) { return __builtin_convertvector(v, vdouble); }
#endif
BN_INLINE void add_to(vdouble (&sums)[2], vfloat v) {
  sums[0] += widened(lower_half(v));
  sums[1] += widened(upper_half(v));
}
BN_INLINE void add_to(vdouble (&sums)[2], vdouble v) { sums[0] += v; }

// In a fixed order, so that the same lanes give the same bits.
BN_INLINE double total(const vdouble (&sums)[2]) {
  vdouble both = sums[0] + sums[1];
  double result = 0;
  for (int i = 0; i < kLanes<double>; ++i) result += both[i];
  return result;
}

}  // namespace BN_ISA
#endif
