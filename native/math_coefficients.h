// Written by fit_math.py: change that.
#ifndef BATCHNORM_MATH_COEFFICIENTS_H
#define BATCHNORM_MATH_COEFFICIENTS_H

namespace BN_ISA {

template <class S> struct Coefficients;
template <> struct Coefficients<float> {
  static constexpr float log2_e = 1.44269502f;
  static constexpr float ln2_high = 0.693145752f;
  static constexpr float ln2_low = 1.42860677e-6f;
  static constexpr float underflow = -104.0f;
  static constexpr float overflow = 89.0f;
  static constexpr float vanished = 14.5f;
  static constexpr float log_density_high = -0.918945313f;
  static constexpr float log_density_low = 6.77929529e-6f;
  static constexpr float exp[] = {
      0.49999997f, 0.166665435f, 0.0416671932f, 8.36649816e-3f, 1.38828461e-3f};
  static constexpr float central_end = 1.0f;
  static constexpr float central[] = {
      0.398942292f, -0.0664905384f, 9.97416861e-3f, -1.18803582e-3f, 1.15036302e-4f, -8.17630735e-6f};
  static constexpr float mills[] = {
      1.25347781f, 1.28706586f, 0.618502676f, 0.161005571f, 0.0215945244f};
  static constexpr float mills_rest[] = {
      1.0f, 0.572048485f, 0.161177203f, 0.0215907078f};
};
template <> struct Coefficients<double> {
  static constexpr double log2_e = 1.4426950408889634;
  static constexpr double ln2_high = 0.6931471805601177;
  static constexpr double ln2_low = -1.7239444525614835e-13;
  static constexpr double underflow = -746.0;
  static constexpr double overflow = 710.0;
  static constexpr double vanished = 39.0;
  static constexpr double log_density_high = -0.91893853320470953;
  static constexpr double log_density_low = 3.6787165056673351e-14;
  static constexpr double exp[] = {
      0.50000000000000056, 0.16666666666666588, 0.041666666666577104, 8.3333333333892833e-3, 1.3888888931451139e-3,
      1.9841269719783595e-4, 2.4801505415078501e-5, 2.7557406789469474e-6, 2.7625979282469351e-7, 2.5054008840199198e-8};
  static constexpr double central_end = 1.0;
  static constexpr double central[] = {
      0.3989422804014327, -0.066490380066902652, 9.9735570099386186e-3, -1.1873282143489135e-3, 1.1543468097383961e-4,
      -9.4446336093405178e-6, 6.6592165925015493e-7, -4.1163584852798572e-8, 2.2221971587212931e-9,
      -8.9212867277144721e-11};
  static constexpr double mills[] = {
      1.2533141363337872, 2.0906531769716983, 1.7156961132511337, 0.89534454490222781, 0.3252613146246876,
      0.085180070741760427, 0.016127490314323305, 2.1454385372764052e-3, 1.8470276966205072e-4, 8.1236519982349868e-6};
  static constexpr double mills_rest[] = {
      1.0, 1.2126703092476467, 0.74584520997720349, 0.29485295773958492, 0.080970446450336742, 0.015758084301187084,
      2.1291912426270264e-3, 1.8470276955128963e-4, 8.123651998825384e-6};
};

}  // namespace BN_ISA
#endif
