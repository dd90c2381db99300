#include "graft_indices.h"

#include <stdexcept>
#include <string_view>
#include <vector>

#include "graft_graph.hpp"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace {

namespace mx = mlx::core;
using graft::as;
using graft::input;
using mx::array;

using Replace = int (*)(mlx_array* res, const graft_index_use* use, void* payload);

// What a callback stores, freed in the end.
struct Found {
  mlx_array handle{nullptr};
  ~Found() {
    mlx_array_free(handle);
  }
};

mlx_array borrowed(const array& a) {
  return {const_cast<array*>(&a)};
}

// Replaces indices of one operation after the other.
class Replacer {
 public:
  Replacer(Replace replace, void* payload) : replace_(replace), payload_(payload) {}

  void operator()(array& a) const {
    const std::string_view name = a.primitive().name();
    const auto last = a.inputs().size() - 1;
    if (name == "Gather") {
      const auto [axes, sizes] = as<mx::Gather>(a).state();
      for (size_t i = 0; i < axes.size(); ++i) {
        auto use = use_of(GRAFT_INDEX_SLICES, a, 0);
        set_axes(use, &axes[i], 1);
        set_sizes(use, sizes);
        replace(a, i + 1, use);
      }
    } else if (name == "GatherAxis") {
      const int axis = as<mx::GatherAxis>(a).state();
      places(a, axis);
    } else if (name.rfind("ScatterAxis", 0) == 0) {
      const int axis = as<mx::ScatterAxis>(a).state().second;
      places(a, axis);
    } else if (name == "DynamicSlice") {
      const auto [axes, sizes] = as<mx::DynamicSlice>(a).state();
      auto use = use_of(GRAFT_INDEX_SLICE, a, 0);
      set_axes(use, axes.data(), axes.size());
      set_sizes(use, sizes);
      replace(a, 1, use);
    } else if (name == "DynamicSliceUpdate") {
      const auto axes = as<mx::DynamicSliceUpdate>(a).state();
      auto use = use_of(GRAFT_INDEX_UPDATED_SLICE, a, 0);
      use.updates = borrowed(input(a, 1));
      set_axes(use, axes.data(), axes.size());
      replace(a, 2, use);
    } else if (name == "GatherMM" || name == "GatherQMM") {
      replace(a, last - 1, use_of(GRAFT_INDEX_MATRICES, a, 0));
      replace(a, last, use_of(GRAFT_INDEX_MATRICES, a, 1));
    } else if (name.rfind("Scatter", 0) == 0) {
      const auto axes = as<mx::Scatter>(a).state().second;
      for (size_t i = 0; i < axes.size(); ++i) {
        auto use = use_of(GRAFT_INDEX_UPDATED_SLICES, a, 0);
        use.updates = borrowed(input(a, last));
        set_axes(use, &axes[i], 1);
        replace(a, i + 1, use);
      }
    }
  }

 private:
  static graft_index_use use_of(graft_index_kind kind, const array& a, size_t source) {
    graft_index_use use{};
    use.kind = kind;
    use.source = borrowed(input(a, source));
    return use;
  }

  static void set_axes(graft_index_use& use, const int* axes, size_t count) {
    use.axes = axes;
    use.num_axes = count;
  }

  static void set_sizes(graft_index_use& use, const mx::Shape& sizes) {
    use.sizes = sizes.data();
    use.num_sizes = sizes.size();
  }

  void places(array& a, int axis) const {
    auto use = use_of(GRAFT_INDEX_PLACES, a, 0);
    set_axes(use, &axis, 1);
    replace(a, 1, use);
  }

  void replace(array& a, size_t at, graft_index_use use) const {
    auto& indices = a.inputs().at(at);
    auto stream = a.primitive().stream();
    use.indices = borrowed(indices);
    use.stream = {&stream};
    Found found;
    if (replace_(&found.handle, &use, payload_) != 0) {
      throw std::runtime_error("[graft_replace_indices] The callback failed.");
    }
    if (found.handle.ctx) {
      indices = mlx_array_get_(found.handle);
    }
  }

  Replace replace_;
  void* payload_;
};

} // namespace

extern "C" int graft_replace_indices(
    const mlx_vector_array outputs,
    const mlx_vector_array inputs,
    int (*replace)(mlx_array* res, const graft_index_use* use, void* payload),
    void* payload) {
  try {
    // First all, as the others are found through what is replaced.
    std::vector<array> operations;
    graft::visit_operations(
        mlx_vector_array_get_(outputs), mlx_vector_array_get_(inputs), [&](const array& a) {
          const std::string_view name = a.primitive().name();
          if (name.rfind("Gather", 0) == 0 || name.rfind("Scatter", 0) == 0 ||
              name.rfind("DynamicSlice", 0) == 0) {
            operations.push_back(a);
          }
        });
    const Replacer in(replace, payload);
    for (auto& a : operations) {
      in(a);
    }
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
