#include "graft_shapes.h"

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

#include "graft_graph.hpp"
#include "graft_primitive.hpp"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/fast_primitives.h"
#include "mlx/primitives.h"

namespace {

namespace mx = mlx::core;
using graft::as;
using graft::input;
using mx::array;

// Whether an operation can take its inputs, as far as its output does not tell.
using Rule = bool (*)(const array&);

bool broadcasts(const array& from, const array& to) {
  if (from.ndim() > to.ndim()) {
    return false;
  }
  const auto skipped = to.ndim() - from.ndim();
  for (size_t i = 0; i < from.ndim(); ++i) {
    if (from.shape(i) != 1 && from.shape(i) != to.shape(i + skipped)) {
      return false;
    }
  }
  return true;
}

// Whether two arrays have the same lengths but for one axis, or for the last `but_last`.
bool alike(const array& a, const array& b, int but = -1, int but_last = 0) {
  if (a.ndim() != b.ndim()) {
    return false;
  }
  for (int i = 0; i < static_cast<int>(a.ndim()) - but_last; ++i) {
    if (i != but && a.shape(i) != b.shape(i)) {
      return false;
    }
  }
  return true;
}

bool at_most(const array& small, const array& large) {
  bool fits = small.ndim() == large.ndim();
  for (size_t i = 0; fits && i < small.ndim(); ++i) {
    fits = small.shape(i) <= large.shape(i);
  }
  return fits;
}

bool anything(const array&) {
  return true;
}

bool element_by_element(const array& a) {
  const auto& inputs = a.inputs();
  return std::all_of(inputs.begin(), inputs.end(), [&](auto& in) { return alike(in, a); });
}

bool fused(const array& a) {
  const auto& inputs = a.inputs();
  return std::all_of(inputs.begin(), inputs.end(), [&](auto& in) { return broadcasts(in, a); });
}

bool same_elements(const array& a) {
  return input(a, 0).size() == a.size();
}

bool broadcast(const array& a) {
  return broadcasts(input(a, 0), a);
}

// The largest of nothing is no number.
bool of_something(const array& a) {
  return input(a, 0).size() > 0 || a.size() == 0;
}

// MLX leaves the operation out where all its axes have length 1, and its kernel can do that only if
// they are all there are.
bool reduction(const array& a) {
  const auto axes = std::get<1>(as<mx::Reduce>(a).state());
  return input(a, 0).size() != a.size() || a.size() == 0 || axes.size() == a.ndim();
}

bool extreme(const array& a) {
  return of_something(a) && reduction(a);
}

bool square(const array& a) {
  const auto& in = input(a, 0);
  return in.ndim() >= 2 && in.shape(-1) == in.shape(-2);
}

bool product(const array& a, const array& b) {
  return a.ndim() >= 2 && alike(a, b, -1, 2) && a.shape(-1) == b.shape(-2);
}

bool matmul(const array& a) {
  return product(input(a, 0), input(a, 1));
}

bool addmm(const array& a) {
  return matmul(a) && alike(input(a, 2), a);
}

// Whether quantized weights, the input `first` and those behind it, have their scales and biases.
bool quantized(const array& a, size_t first, int group_size, int bits, mx::QuantizationMode mode) {
  const auto &w = input(a, first), &scales = input(a, first + 1);
  const bool has_biases = mode == mx::QuantizationMode::Affine;
  return w.ndim() >= 1 && alike(scales, w, static_cast<int>(w.ndim()) - 1) &&
      scales.shape(-1) == w.shape(-1) * 32 / bits / group_size &&
      (!has_biases || alike(input(a, first + 2), scales));
}

bool quantized_product(const array& x, const array& w, int bits, bool transpose) {
  return x.ndim() >= 1 && w.ndim() >= 2 &&
      x.shape(-1) == (transpose ? w.shape(-1) * 32 / bits : w.shape(-2));
}

bool quantized_matmul(const array& a) {
  const auto [group_size, bits, mode, transpose] = as<mx::QuantizedMatmul>(a).state();
  const auto &x = input(a, 0), &w = input(a, 1);
  return quantized_product(x, w, bits, transpose) && quantized(a, 1, group_size, bits, mode) &&
      (w.ndim() == 2 || alike(x, w, -1, 2));
}

bool gather_qmm(const array& a) {
  const auto state = as<mx::GatherQMM>(a).state();
  const auto bits = std::get<1>(state);
  const auto& inputs = a.inputs();
  const auto &x = input(a, 0), &w = input(a, 1);
  return x.ndim() >= 2 && quantized_product(x, w, bits, std::get<3>(state)) &&
      quantized(a, 1, std::get<0>(state), bits, std::get<2>(state)) &&
      alike(inputs[inputs.size() - 2], inputs.back());
}

bool gather_mm(const array& a) {
  const auto &x = input(a, 0), &y = input(a, 1);
  return x.ndim() >= 2 && y.ndim() >= 2 && x.shape(-1) == y.shape(-2) &&
      alike(input(a, 2), input(a, 3));
}

bool quantize(const array& a) {
  const auto state = as<mx::fast::Quantize>(a).state();
  const auto group_size = std::get<1>(state);
  return std::get<4>(state)
      ? quantized(a, 0, group_size, std::get<2>(state), std::get<3>(state))
      : input(a, 0).ndim() >= 1 && input(a, 0).shape(-1) % group_size == 0;
}

bool concatenate(const array& a) {
  const int axis = as<mx::Concatenate>(a).state();
  const auto& inputs = a.inputs();
  return std::all_of(inputs.begin(), inputs.end(), [&](auto& in) { return alike(in, a, axis); });
}

bool convolution(const array& a) {
  const int groups = std::get<5>(as<mx::Convolution>(a).state());
  const auto &in = input(a, 0), &weight = input(a, 1);
  return in.ndim() == weight.ndim() && in.shape(-1) == weight.shape(-1) * groups &&
      weight.shape(0) % groups == 0;
}

bool gather(const array& a) {
  const auto [axes, sizes] = as<mx::Gather>(a).state();
  const auto& source = input(a, 0);
  bool fits = sizes.size() == source.ndim() && a.inputs().size() == axes.size() + 1;
  for (size_t i = 0; fits && i < sizes.size(); ++i) {
    fits = sizes[i] <= source.shape(i);
  }
  for (size_t i = 2; fits && i < a.inputs().size(); ++i) {
    fits = alike(input(a, i), input(a, 1));
  }
  return fits;
}

bool gather_axis(const array& a) {
  return alike(input(a, 0), input(a, 1), as<mx::GatherAxis>(a).state());
}

bool scatter_axis(const array& a) {
  const int axis = as<mx::ScatterAxis>(a).state().second;
  return alike(input(a, 0), input(a, 1), axis) && alike(input(a, 1), input(a, 2));
}

bool slice_update(const array& a) {
  const auto [kind, start, stop, strides] = as<mx::SliceUpdate>(a).state();
  const auto &source = input(a, 0), &update = input(a, 1);
  bool fits = start.size() == source.ndim() && update.ndim() == source.ndim();
  for (size_t i = 0; fits && i < start.size(); ++i) {
    const int64_t length = update.shape(i), first = start[i];
    const int64_t last = first + (length - 1) * strides[i], end = source.shape(i);
    fits = length == 0 || (first >= 0 && first < end && last >= 0 && last < end);
  }
  return fits;
}

bool dynamic_slice(const array& a) {
  const auto axes = as<mx::DynamicSlice>(a).state().first.size();
  return at_most(a, input(a, 0)) && input(a, 1).size() == axes;
}

bool dynamic_slice_update(const array& a) {
  const auto axes = as<mx::DynamicSliceUpdate>(a).state().size();
  return at_most(input(a, 1), input(a, 0)) && input(a, 2).size() == axes;
}

bool has_place(const array& a, int kth, int axis) {
  const int length = a.shape(axis);
  return kth >= -length && kth < length;
}

bool searchsorted(const array& a) {
  return input(a, 0).ndim() == 1;
}

// Weights, and what is added, are of the last axis.
bool norm(const array& a) {
  const auto& inputs = a.inputs();
  return std::all_of(inputs.begin() + 1, inputs.end(), [&](auto& in) {
    return in.ndim() == 0 || (in.ndim() == 1 && in.shape(0) == a.shape(-1));
  });
}

// Shapes that are not here have no rule in MLX either, which says so, or no check here.
const std::unordered_map<std::string_view, Rule>& rules() {
  static const auto* found = [] {
    auto* rules = new std::unordered_map<std::string_view, Rule>{
        {"AddMM", addmm},
        {"ArgPartition",
         [](const array& a) {
           const auto [kth, axis] = as<mx::ArgPartition>(a).state();
           return has_place(a, kth, axis);
         }},
        {"Partition",
         [](const array& a) {
           const auto [kth, axis] = as<mx::Partition>(a).state();
           return has_place(a, kth, axis);
         }},
        {"Concatenate", concatenate},
        {"Convolution", convolution},
        {"DynamicSlice", dynamic_slice},
        {"DynamicSliceUpdate", dynamic_slice_update},
        {"Gather", gather},
        {"GatherAxis", gather_axis},
        {"GatherMM", gather_mm},
        {"GatherQMM", gather_qmm},
        {"LayerNorm", norm},
        {"Matmul", matmul},
        {"Quantize", quantize},
        {"QuantizedMatmul", quantized_matmul},
        {"RMSNorm", norm},
        {"SearchSorted", searchsorted},
    };
    const auto all = [rules](Rule rule, std::initializer_list<std::string_view> names) {
      for (auto name : names) {
        rules->emplace(name, rule);
      }
    };
    all(scatter_axis, {"ScatterAxis", "ScatterAxis Sum"});
    all(slice_update,
        {"SliceUpdate", "SliceUpdate Sum", "SliceUpdate Prod", "SliceUpdate Min", "SliceUpdate Max"});
    all(square, {"Eig", "Eigh"});
    all(extreme, {"Max", "Min"});
    all(of_something, {"ArgReduce"});
    all(reduction, {"And", "Or", "Prod", "Sum"});
    all(broadcast, {"Broadcast", "BroadcastAxes"});
    all(same_elements,
        {"ExpandDims", "Flatten", "Reshape", "Squeeze", "Transpose", "Unflatten"});
    all(anything, {"LogSumExp", "NumberOfElements"});
    all(element_by_element,
        {"Abs",        "Add",         "ArcCos",    "ArcCosh",     "ArcSin",       "ArcSinh",
         "ArcTan",     "ArcTan2",     "ArcTanh",   "ArgSort",     "AsType",       "BitwiseAnd",
         "BitwiseInvert", "BitwiseOr", "BitwiseXor", "Ceil",      "Conjugate",    "Contiguous",
         "Copy",       "Cos",         "Cosh",      "DivMod",      "Divide",       "Equal",
         "Erf",        "ErfInv",      "Exp",       "Expm1",       "Floor",        "Full",
         "Greater",    "GreaterEqual", "Imag",     "LeftShift",   "Less",         "LessEqual",
         "Log",        "Log10",       "Log1p",     "Log2",        "LogAddExp",    "LogicalAnd",
         "LogicalNot", "LogicalOr",   "Maximum",   "Minimum",     "Multiply",     "NaNEqual",
         "Negative",   "NotEqual",    "Power",     "Real",        "Remainder",    "RightShift",
         "Round",      "Rsqrt",       "Select",    "Sigmoid",     "Sign",         "Sin",
         "Sinh",       "Softmax",     "Sort",      "Sqrt",        "Square",       "StopGradient",
         "Subtract",   "Tan",         "Tanh"});
    return rules;
  }();
  return *found;
}

void check(const array& a) {
  const auto& primitive = a.primitive();
  if (graft_is_primitive(primitive)) {
    return;
  }
  Rule rule = nullptr;
  if (dynamic_cast<const mx::Compiled*>(&primitive)) {
    rule = fused;
  } else if (auto found = rules().find(primitive.name()); found != rules().end()) {
    rule = found->second;
  }
  if (rule && rule(a)) {
    return;
  }
  std::ostringstream message;
  if (!rule) {
    message << "[compile] A shapeless trace has the operation " << primitive.name()
            << ", which cannot tell whether other shapes fit: compile it without shapeless.";
  } else {
    message << "[compile] A shapeless trace met shapes that do not fit its operation "
            << primitive.name() << ":";
    for (const auto& in : a.inputs()) {
      message << " " << in.shape();
    }
    message << ".";
  }
  throw std::invalid_argument(message.str());
}

} // namespace

extern "C" int graft_check_shapes(const mlx_vector_array outputs, const mlx_vector_array inputs) {
  try {
    graft::visit_operations(
        mlx_vector_array_get_(outputs), mlx_vector_array_get_(inputs), check);
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
