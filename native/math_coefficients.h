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
  static constexpr float inverse_sqrt_2_pi = 0.398942292f;
  static constexpr float log_of_rounded = -2.84130568e-8f;
  static constexpr float exp[] = {
      0.49999997f, 0.166665435f, 0.0416671932f, 8.36649816e-3f, 1.38828461e-3f};
  static constexpr float central_end = 0.670000017f;
  static constexpr float central[] = {
      0.398942292f, -0.0664903447f, 9.97293275e-3f, -1.18341809e-3f, 1.05341031e-4f};
  static constexpr float mills[] = {
      1.25336242f, 1.25938129f, 0.591974139f, 0.150532171f, 0.0191037618f};
  static constexpr float mills_rest[] = {
      1.0f, 0.5496158f, 0.15076454f, 0.0190982837f};
};
template <> struct Coefficients<double> {
  static constexpr double log2_e = 1.4426950408889634;
  static constexpr double ln2_high = 0.6931471805601177;
  static constexpr double ln2_low = -1.7239444525614835e-13;
  static constexpr double underflow = -746.0;
  static constexpr double overflow = 710.0;
  static constexpr double vanished = 39.0;
  static constexpr double inverse_sqrt_2_pi = 0.3989422804014327;
  static constexpr double log_of_rounded = -6.247337834861335e-17;
  static constexpr double exp[] = {
      0.50000000000000056, 0.16666666666666588, 0.041666666666577104, 8.3333333333892833e-3, 1.3888888931451139e-3,
      1.9841269719783595e-4, 2.4801505415078501e-5, 2.7557406789469474e-6, 2.7625979282469351e-7, 2.5054008840199198e-8};
  static constexpr double central_end = 0.67000000000000004;
  static constexpr double central[] = {
      0.3989422804014327, -0.066490380066905233, 9.9735570100231135e-3, -1.1873282151905946e-3, 1.1543468429870978e-4,
      -9.4446348978722771e-6, 6.6588837099937013e-7, -4.1047046655990316e-8, 2.0566678660150999e-9};
  static constexpr double mills[] = {
      1.2533141372213081, 2.0597080073356913, 1.6665759855773243, 0.85717303676236178, 0.30658116448936656,
      0.078915092583089139, 0.014650375390012765, 1.9041518198960699e-3, 1.5927995045520075e-4, 6.7220632055622772e-6};
  static constexpr double mills_rest[] = {
      1.0, 1.1879796415632524, 0.71789785977025256, 0.27887260051209772, 0.075174035499682115, 0.01433181469627552,
      1.8907077098694466e-3, 1.5927995025239239e-4, 6.7220632066875181e-6};
};

}  // namespace BN_ISA
#endif
