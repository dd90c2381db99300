#include "graft_fast.h"

#include <string>
#include <tuple>
#include <vector>

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/fast.h"

// What the handles of mlx-c point to. Its fast.cpp keeps these types to itself; the one-definition
// rule asks for the same tokens here.
struct mlx_fast_metal_kernel_cpp_ {
  mlx::core::fast::CustomKernelFunction mkf;
  mlx_fast_metal_kernel_cpp_(mlx::core::fast::CustomKernelFunction mkf)
      : mkf(mkf) {};
};

struct mlx_fast_metal_kernel_config_cpp_ {
  std::vector<mlx::core::Shape> output_shapes;
  std::vector<mlx::core::Dtype> output_dtypes;
  std::tuple<int, int, int> grid;
  std::tuple<int, int, int> thread_group;
  std::vector<std::pair<std::string, mlx::core::fast::TemplateArg>>
      template_args;
  std::optional<float> init_value;
  bool verbose;
};

struct mlx_fast_cuda_kernel_config_cpp_ {
  std::vector<mlx::core::Shape> output_shapes;
  std::vector<mlx::core::Dtype> output_dtypes;
  std::tuple<int, int, int> grid;
  std::tuple<int, int, int> thread_group;
  std::vector<std::pair<std::string, mlx::core::fast::TemplateArg>>
      template_args;
  std::optional<float> init_value;
  bool verbose;
};

namespace {

template <typename T, typename Handle>
T& get(Handle handle, const char* name) {
  if (!handle.ctx) {
    throw std::runtime_error(std::string("expected a non-empty ") + name);
  }
  return *static_cast<T*>(handle.ctx);
}

mlx::core::MathMode math_mode_to_cpp(graft_metal_math_mode mode) {
  switch (mode) {
    case GRAFT_METAL_MATH_SAFE:
      return mlx::core::MathMode::Safe;
    case GRAFT_METAL_MATH_RELAXED:
      return mlx::core::MathMode::Relaxed;
    case GRAFT_METAL_MATH_FAST:
      return mlx::core::MathMode::Fast;
  }
  throw std::invalid_argument("[metal_kernel] There is no such math mode.");
}

mlx::core::fast::ScalarArg scalar_to_cpp(const graft_fast_scalar& scalar) {
  switch (scalar.type) {
    case GRAFT_FAST_SCALAR_BOOL:
      return scalar.value != 0;
    case GRAFT_FAST_SCALAR_INT:
      return static_cast<int>(scalar.value);
    case GRAFT_FAST_SCALAR_FLOAT:
      return static_cast<float>(scalar.value);
  }
  throw std::invalid_argument("[precompiled_cuda_kernel] There is no such type of a scalar.");
}

} // namespace

extern "C" mlx_fast_metal_kernel graft_fast_metal_kernel_new(
    const char* name,
    const mlx_vector_string input_names,
    const mlx_vector_string output_names,
    const char* source,
    const char* header,
    bool ensure_row_contiguous,
    bool atomic_outputs,
    graft_metal_math_mode math_mode) {
  try {
    mlx::core::CompileOptions options;
    options.math_mode = math_mode_to_cpp(math_mode);
    return {new mlx_fast_metal_kernel_cpp_(mlx::core::fast::metal_kernel(
        name,
        mlx_vector_string_get_(input_names),
        mlx_vector_string_get_(output_names),
        source,
        header,
        ensure_row_contiguous,
        atomic_outputs,
        options))};
  } catch (std::exception& e) {
    mlx_error(e.what());
    return {nullptr};
  }
}

extern "C" int graft_fast_metal_kernel_apply_default(
    mlx_vector_array* outputs,
    mlx_fast_metal_kernel cls,
    const mlx_vector_array inputs,
    const mlx_fast_metal_kernel_config config) {
  try {
    auto& kernel = get<mlx_fast_metal_kernel_cpp_>(cls, "mlx_fast_metal_kernel");
    auto& c = get<mlx_fast_metal_kernel_config_cpp_>(config, "mlx_fast_metal_kernel_config");
    mlx_vector_array_set_(
        *outputs,
        kernel.mkf(
            mlx_vector_array_get_(inputs),
            c.output_shapes,
            c.output_dtypes,
            c.grid,
            c.thread_group,
            c.template_args,
            c.init_value,
            c.verbose,
            {}));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_fast_precompiled_cuda_kernel(
    mlx_vector_array* outputs,
    const char* name,
    const uint8_t* compiled_source,
    size_t compiled_source_num,
    const mlx_vector_array inputs,
    const graft_fast_scalar* scalars,
    size_t scalars_num,
    const mlx_fast_cuda_kernel_config config,
    int shared_memory,
    bool ensure_row_contiguous,
    const mlx_stream s) {
  try {
    auto& c = get<mlx_fast_cuda_kernel_config_cpp_>(config, "mlx_fast_cuda_kernel_config");
    std::vector<mlx::core::fast::ScalarArg> arguments;
    arguments.reserve(scalars_num);
    for (size_t i = 0; i < scalars_num; i++) {
      arguments.push_back(scalar_to_cpp(scalars[i]));
    }
    mlx_vector_array_set_(
        *outputs,
        mlx::core::fast::precompiled_cuda_kernel(
            name,
            std::string(reinterpret_cast<const char*>(compiled_source), compiled_source_num),
            mlx_vector_array_get_(inputs),
            c.output_shapes,
            c.output_dtypes,
            arguments,
            c.grid,
            c.thread_group,
            shared_memory,
            c.init_value,
            ensure_row_contiguous,
            mlx_stream_get_(s)));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
