// backward: grad_moments, then grad_input of a channel while it is still in the cache; each is also run alone.
#ifndef BATCHNORM_BACKWARD_H
#define BATCHNORM_BACKWARD_H

#include "channels.h"
#include "forward_rows.h"
#include "geometry.h"
#include "gradient.h"

namespace BN_ISA {

// Which steps a call asks for.
struct BackwardSteps {
  bool sums;  // take sum_dy and sum_dy_xhat, else read them from the call where it has them
  bool input;
};

static inline int tensors_of(const bn_call &call, BackwardSteps steps) {
  return 2 + (call.second ? 1 : 0) + (steps.input && call.output ? 1 : 0) + (steps.input && call.grad_residual ? 1 : 0);
}

// What the sums of one channel become: gradients of the parameters, and what dx subtracts.
template <class S>
static void finish_gradient(const bn_call &call, int64_t channel, Sums sums, bool writes, double count,
                            Numbers<S> &numbers, int64_t at) {
  const double invstd = call.invstd[channel];
  if (writes) {
    if (call.sum_dy) call.sum_dy[channel] = sums.a;
    if (call.sum_dy_xmu) call.sum_dy_xmu[channel] = sums.b / invstd;
    if (call.grad_weight) write_number(call.grad_weight, call.parameter_type, channel, sums.b);
    if (call.grad_bias) write_number(call.grad_bias, call.parameter_type, channel, sums.a);
  }
  if (!numbers.through_statistics) return numbers.set_gradient(at, 0, 0, 0);
  const double weight = call.weight ? read_number(call.weight, call.parameter_type, channel) : 1.0;
  const double divisor = count > 1 ? count : 1;
  numbers.set_gradient(at, sums.a / divisor, sums.b / divisor, invstd * weight);
}

static inline Sums given_sums(const bn_call &call, int64_t channel) {
  if (!call.sum_dy) return {0, 0};
  return {call.sum_dy[channel], call.sum_dy_xmu[channel] * call.invstd[channel]};
}

static inline double values_of_channel(const bn_call &call) {
  if (!(call.flags & BN_BATCH_STATISTICS)) return 1;  // nothing is divided, and there may be no count to read
  if (call.count) return *call.count;
  return double(valid_positions(call, Part{0, call.channels, 0, call.outer, 0, call.inner}));
}

template <class T> static const T *offset_by(const void *from, int64_t at) { return from ? (const T *)from + at : nullptr; }
template <class T> static T *offset_by(void *from, int64_t at) { return from ? (T *)from + at : nullptr; }

// Where exp and its kin cost more than to write dy and read it again, dy stays in the cache: of how many of the last runs of
// each channel of a block.
template <class T>
static int64_t kept_runs(const bn_call &call, BackwardSteps steps, const GradientKernels<T> &kernels, int64_t channels) {
  if (!kernels.input_runs_of_dy || !steps.sums || !steps.input) return 0;
  return least(call.outer, level2_bytes() / 2 / most(1, channels * call.inner * int64_t(sizeof(Compute<T>))));
}

template <class T> static int backward_planes(const bn_call &call, BackwardSteps steps, const GradientKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  const Split split = planes_split(call, asked);
  const bool alone = split == Split::channels;
  const int64_t width = alone ? channels_of_block(call, sizeof(T), call.second ? 3 : 2) : call.channels;
  const int64_t each = Numbers<S>::bytes(width), for_sums = Pieces::bytes<Sums>(width);
  const int64_t kept = alone ? kept_runs(call, steps, kernels, width) : 0;
  const int64_t for_dy = Pieces::bytes<S>(width * kept * call.inner);
  Scratch scratch(asked * (each + for_sums + for_dy));
  if (!scratch.memory()) return -1;
  char *const partial = scratch.memory() + asked * each, *const dy = partial + asked * for_sums;
  const double count = values_of_channel(call);
  const S parameter = S(call.act_parameter);

  on_team(asked, [&](int thread, int threads) {
    const Part part = planes_part(call, split, thread, threads);
    const Runs runs = runs_of(call, part);
    const uint8_t *mask = first_mask(call, part);
    Pieces pieces(scratch.memory() + thread * each);
    Numbers<S> numbers(pieces, width);
    numbers.through_statistics = call.flags & BN_BATCH_STATISTICS;
    numbers.place(call, sizeof(T), tensors_of(call, steps));
    auto sums_by = [&](int who) { return (Sums *)(partial + who * for_sums); };
    auto set_numbers = [&](int64_t c, int64_t at) { numbers.set(call, c, at, call.mean[c], call.invstd[c]); };
    S *const keeps = (S *)(dy + thread * for_dy);
    // Call body(from, mask, runs, keeps) for the runs of channel c of which dy is kept, and for those before them.
    auto for_kept_and_others = [&](int64_t c, int64_t at, auto body) {
      const int64_t from = first_value(call, part, c), others = runs.count - kept;
      const Runs last = {kept, runs.length, runs.stride, runs.mask_stride};
      const Runs first = {others, runs.length, runs.stride, runs.mask_stride};
      if (kept)
        body(from + others * runs.stride, offset_by<const uint8_t>(mask, others * runs.mask_stride), last,
             keeps + at * kept * call.inner);
      if (others) body(from, mask, first, (S *)nullptr);
    };
    auto sum = [&](int64_t c, int64_t at) {
      if (!steps.sums) return;
      Sums &found = sums_by(thread)[at] = {0, 0};
      for_kept_and_others(c, at, [&](int64_t from, const uint8_t *mask, const Runs &runs, S *keeps) {
        const Sums more = kernels.moments_runs((const T *)call.grad_output + from, (const T *)call.x + from,
                                               offset_by<T>(call.second, from), mask, runs, numbers, at, parameter, keeps);
        found = {found.a + more.a, found.b + more.b};
      });
    };
    auto finish = [&](int64_t c, int64_t at) {
      Sums found = given_sums(call, c);
      if (steps.sums) {
        found = sums_by(alone ? thread : 0)[at];
        for (int who = 1; !alone && who < threads; ++who)
          found = {found.a + sums_by(who)[at].a, found.b + sums_by(who)[at].b};
      }
      finish_gradient(call, c, found, steps.sums && (alone || thread == 0), count, numbers, at);
    };
    auto input = [&](int64_t c, int64_t at) {
      if (!steps.input) return;
      for_kept_and_others(c, at, [&](int64_t from, const uint8_t *mask, const Runs &runs, const S *keeps) {
        T *const grad_x = offset_by<T>(call.output, from), *const grad_residual = offset_by<T>(call.grad_residual, from);
        if (keeps)
          return kernels.input_runs_of_dy(keeps, (const T *)call.x + from, mask, grad_x, grad_residual, runs, numbers, at);
        kernels.input_runs((const T *)call.grad_output + from, (const T *)call.x + from, offset_by<T>(call.second, from),
                           mask, grad_x, grad_residual, runs, numbers, at, parameter);
      });
    };
    if (alone) {
      for (int64_t begin = part.channel_begin; begin < part.channel_end; begin += width) {
        const int64_t end = least(begin + width, part.channel_end);
        for (int64_t c = begin; c < end; ++c) set_numbers(c, c - begin);
        for (int64_t c = begin; c < end; ++c) sum(c, c - begin);
        for (int64_t c = begin; c < end; ++c) finish(c, c - begin);
        for (int64_t c = begin; c < end; ++c) input(c, c - begin);
      }
      return;
    }
    for (int64_t c = 0; c < call.channels; ++c) set_numbers(c, c);
    for (int64_t c = 0; c < call.channels; ++c) sum(c, c);
    wait_for_team(threads);
    for (int64_t c = 0; c < call.channels; ++c) finish(c, c);
    for (int64_t c = call.channels; c-- > 0;) input(c, c);
  });
  return 0;
}

// Over rows it stays in the gradient that is written at last, if that holds all its digits. From a gradient beyond the
// caches it would take longer to read than to compute.
template <class T>
static T *kept_in_gradient(const bn_call &call, BackwardSteps steps, const GradientKernels<T> &kernels) {
  if (!kernels.input_rows_of_dy || !steps.sums || !steps.input) return nullptr;
  if (past_caches(call, sizeof(T), tensors_of(call, steps))) return nullptr;
  return (T *)(call.grad_residual ? call.grad_residual : call.output);
}

template <class T> static int backward_rows(const bn_call &call, BackwardSteps steps, const GradientKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  const RowsPlan plan = rows_plan(call, sizeof(T), kLanes<S>, tensors_of(call, steps), steps.sums && steps.input, asked);
  const bool few = call.channels <= kFewChannels;
  const int64_t for_sums = Pieces::bytes<double>(plan.width), for_numbers = Numbers<S>::bytes(plan.width);
  Scratch scratch(2 * asked * for_sums + (few ? asked : 1) * for_numbers);
  if (!scratch.memory()) return -1;
  char *const for_all = scratch.memory() + 2 * asked * for_sums;
  const double count = values_of_channel(call);
  const S parameter = S(call.act_parameter);
  T *const keeps = kept_in_gradient<T>(call, steps, kernels);

  on_team(asked, [&](int thread, int threads) {
    Pieces of_thread(for_all + (few ? thread * for_numbers : 0));
    Numbers<S> numbers(of_thread, plan.width);
    numbers.through_statistics = call.flags & BN_BATCH_STATISTICS;
    numbers.place(call, sizeof(T), tensors_of(call, steps));
    const RowsPart rows = rows_part(call, plan, thread, threads);
    auto sums_by = [&](int who, int which) { return (double *)(scratch.memory() + (2 * who + which) * for_sums); };
    auto set_numbers = [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) numbers.set(call, c, c, call.mean[c], call.invstd[c]);
      numbers.repeat(begin, end, call.channels, plan.fold);
    };
    auto sum = [&](int64_t begin, int64_t end) {
      double *dy = sums_by(thread, 0) + begin, *dy_xhat = sums_by(thread, 1) + begin;
      for (int64_t at = 0; at < (end - begin) * plan.fold; ++at) dy[at] = dy_xhat[at] = 0;
      for_rows(plan, rows, (end - begin) * plan.fold, [&](int64_t row, const Rows &part) {
        const int64_t from = row * plan.width + begin;
        kernels.moments_rows((const T *)call.grad_output + from, (const T *)call.x + from,
                             offset_by<T>(call.second, from), offset_by<const uint8_t>(call.mask, row), part,
                             numbers, begin, parameter, offset_by<T>(keeps, from), dy, dy_xhat);
      });
    };
    auto finish = [&](int64_t begin, int64_t end, int first, int last, bool writes) {
      for (int64_t c = begin; c < end; ++c) {
        Sums found = given_sums(call, c);
        if (steps.sums) {
          found = {0, 0};
          for (int who = first; who < last; ++who)
            for (int64_t k = 0; k < plan.fold; ++k) {
              found.a += sums_by(who, 0)[k * call.channels + c];
              found.b += sums_by(who, 1)[k * call.channels + c];
            }
        }
        finish_gradient(call, c, found, writes && steps.sums, count, numbers, c);
      }
      numbers.repeat_gradient(begin, end, call.channels, plan.fold);
    };
    auto input = [&](int64_t begin, int64_t end) {
      for_rows_backwards(plan, rows, (end - begin) * plan.fold, [&](int64_t row, const Rows &part) {
        const int64_t from = row * plan.width + begin;
        const auto kernel = keeps ? kernels.input_rows_of_dy : kernels.input_rows;
        kernel(keeps ? keeps + from : (const T *)call.grad_output + from, (const T *)call.x + from,
               offset_by<T>(call.second, from), offset_by<const uint8_t>(call.mask, row), offset_by<T>(call.output, from),
               offset_by<T>(call.grad_residual, from), part, numbers, begin, parameter);
      });
    };
    if (plan.by_columns) {
      for (int64_t begin = rows.part.channel_begin; begin < rows.part.channel_end; begin += plan.block) {
        const int64_t end = least(begin + plan.block, rows.part.channel_end);
        set_numbers(begin, end);
        if (steps.sums) sum(begin, end);
        finish(begin, end, thread, thread + 1, true);
        if (steps.input) input(begin, end);
      }
      return;
    }
    const int64_t begin = few ? 0 : share(call.channels, thread, threads);
    const int64_t end = few ? call.channels : share(call.channels, thread + 1, threads);
    set_numbers(begin, end);
    if (!few) wait_for_team(threads);
    if (steps.sums) sum(0, call.channels);
    wait_for_team(threads);
    finish(begin, end, 0, threads, !few || thread == 0);
    if (!few) wait_for_team(threads);
    if (steps.input) input(0, call.channels);
  });
  return 0;
}

}  // namespace BN_ISA
#endif
