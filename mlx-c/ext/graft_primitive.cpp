#include "graft_primitive.h"

#include "graft_primitive.hpp"

#include "graft_backlog.hpp"
#include "graft_error.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace {

namespace mx = mlx::core;

struct Specs {
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
};

// Owns a handle of a list for the length of a callback.
class VectorArray {
 public:
  VectorArray() : raw_(mlx_vector_array_new_()) {}
  explicit VectorArray(const std::vector<mx::array>& arrays) : raw_(mlx_vector_array_new_(arrays)) {}
  ~VectorArray() {
    mlx_vector_array_free_(raw_);
  }
  VectorArray(const VectorArray&) = delete;
  VectorArray& operator=(const VectorArray&) = delete;

  operator mlx_vector_array() const {
    return raw_;
  }
  mlx_vector_array* out() {
    return &raw_;
  }
  std::vector<mx::array> take(const std::string& name, const char* what, size_t expected) {
    auto arrays = raw_.ctx ? std::move(mlx_vector_array_get_(raw_)) : std::vector<mx::array>{};
    if (arrays.size() != expected) {
      throw std::runtime_error(
          "[" + name + "] " + what + " returned " + std::to_string(arrays.size()) +
          " arrays instead of " + std::to_string(expected) + ".");
    }
    return arrays;
  }
  // What a custom derivative gives may have another dtype than what it belongs to, which MLX hands
  // on as it is. What has no direction to move in stays as it is here too.
  void cast(size_t i, mx::Dtype dtype, mx::Stream s) {
    auto& x = mlx_vector_array_get_(raw_)[i];
    if (x.dtype() != dtype && mx::issubdtype(dtype, mx::inexact)) {
      x = mx::astype(x, dtype, s);
    }
  }

 private:
  mlx_vector_array raw_;
};

class VectorInt {
 public:
  VectorInt() : raw_(mlx_vector_int_new_()) {}
  ~VectorInt() {
    mlx_vector_int_free_(raw_);
  }
  VectorInt(const VectorInt&) = delete;
  VectorInt& operator=(const VectorInt&) = delete;

  mlx_vector_int* out() {
    return &raw_;
  }
  std::vector<int> take() {
    return raw_.ctx ? mlx_vector_int_get_(raw_) : std::vector<int>{};
  }

 private:
  mlx_vector_int raw_;
};

// What a running kernel needs after its primitive has left the graph.
struct Kernel {
  Kernel(std::string name, const graft_primitive_vtable* vtable, void* payload)
      : name(std::move(name)), vtable(vtable), payload(payload) {}
  ~Kernel() {
    vtable->dtor(payload);
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  const std::string name;
  const graft_primitive_vtable* const vtable;
  void* const payload;
};

// The inputs and outputs of a kernel, which may be gone when it runs. Their buffers are not: `cpu::eval`
// keeps them alive until the task after this one. As in MLX's own kernels nothing here holds them, as
// that would be released on the stream's thread.
class Operands {
 public:
  Operands(const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs) {
    size_t ndim = 0;
    for (const auto* arrays : {&inputs, &outputs}) {
      for (const auto& a : *arrays) {
        ndim += a.ndim();
      }
    }
    // Pointers into these are handed out, so they must not move.
    shapes_.reserve(ndim);
    strides_.reserve(ndim);
    ins_.reserve(inputs.size());
    for (const auto& in : inputs) {
      ins_.push_back(
          {in.size() ? in.data<char>() : nullptr,
           keep(shapes_, in.shape()),
           keep(strides_, in.strides()),
           in.ndim(),
           in.size(),
           mlx_dtype_to_c(in.dtype()),
           in.flags().row_contiguous});
    }
    outs_.reserve(outputs.size());
    itemsizes_.reserve(outputs.size());
    for (const auto& out : outputs) {
      outs_.push_back(
          {out.size() ? const_cast<char*>(out.data<char>()) : nullptr,
           keep(shapes_, out.shape()),
           out.ndim(),
           out.size(),
           mlx_dtype_to_c(out.dtype())});
      itemsizes_.push_back(out.itemsize());
    }
  }
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;

  void run(const Kernel& kernel) const {
    auto error = mlx_string_new_();
    int status = kernel.vtable->eval(
        &error, ins_.data(), ins_.size(), outs_.data(), outs_.size(), kernel.payload);
    if (status == 0) {
      return;
    }
    for (size_t i = 0; i < outs_.size(); ++i) {
      if (outs_[i].size) {
        poison(outs_[i], itemsizes_[i], status);
      }
    }
    std::string message = error.ctx ? mlx_string_get_(error) : "[" + kernel.name + "] kernel failed";
    mlx_string_free_(error);
    // MLX keeps the first failure of a stream and throws it from the evaluation that waits for it.
    throw std::runtime_error(message);
  }

 private:
  template <typename T, typename Lengths>
  static const T* keep(std::vector<T>& kept, const Lengths& lengths) {
    const auto start = kept.size();
    kept.insert(kept.end(), lengths.begin(), lengths.end());
    return kept.data() + start;
  }

  static void poison(const graft_primitive_output& out, size_t itemsize, int status) {
    // All bits set is a NaN in every floating-point format; a bool may hold nothing but 0 and 1.
    int nan = out.dtype == MLX_BOOL ? 1 : 0xFF;
    std::memset(out.data, status == 2 ? 0 : nan, out.size * itemsize);
  }

  std::vector<int> shapes_;
  std::vector<int64_t> strides_;
  std::vector<graft_primitive_input> ins_;
  std::vector<graft_primitive_output> outs_;
  std::vector<size_t> itemsizes_;
};

// MLX's allocator gives a buffer at null where there is no memory.
mx::allocator::Buffer allocate(size_t bytes) {
  auto buffer = mx::allocator::malloc(bytes);
  if (bytes > 0 && !buffer.ptr()) {
    throw std::bad_alloc();
  }
  return buffer;
}

// Makes the stream of a primitive the default one while its callback builds a graph. MLX's default
// device is the whole process's and has no lock, so it is written only where it differs.
class DefaultStream {
 public:
  explicit DefaultStream(mx::Stream stream) {
    if (mx::default_device() != stream.device || mx::default_stream(stream.device) != stream) {
      scope_.emplace(stream);
    }
  }

 private:
  std::optional<mx::StreamContext> scope_;
};

class GraftPrimitive : public mx::Primitive {
 public:
  GraftPrimitive(mx::Stream stream, std::shared_ptr<const Kernel> kernel)
      : Primitive(stream), kernel_(std::move(kernel)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    if (!kernel_->vtable->eval) {
      pass(inputs, outputs);
      return;
    }
    size_t bytes = 0;
    std::vector<mx::array*> fresh;
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto& out = outputs[i];
      const int updated = updates.at(i);
      if (updated >= 0) {
        release(inputs, outputs);
      }
      if (updated >= 0 && is_free(inputs.at(updated), out)) {
        out.copy_shared_buffer(inputs[updated]);
      } else {
        fresh.push_back(&out);
        bytes += out.nbytes();
      }
    }
    auto ticket = Backlog::enter(stream().index, bytes);
    try {
      for (auto* out : fresh) {
        out->set_data(allocate(out->nbytes()));
      }
    } catch (...) {
      retain(inputs, outputs);
      throw;
    }
    auto operands = std::make_shared<const Operands>(inputs, outputs);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([kernel = kernel_, operands, ticket]() { operands->run(*kernel); });
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    if (!kernel_->vtable->eval) {
      pass(inputs, outputs);
      return;
    }
    throw std::runtime_error(
        "[" + kernel_->name +
        "] This operation has a CPU kernel only: apply it on a CPU stream or device.");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<mx::array>& outputs) override {
    DefaultStream scope(stream());
    VectorArray res, ins(primals), cots(cotangents), outs(outputs);
    for (size_t i = 0; i < outputs.size(); ++i) {
      cots.cast(i, outputs[i].dtype(), stream());
    }
    check(
        "vjp",
        kernel_->vtable->vjp(
            res.out(), ins, cots, argnums.data(), argnums.size(), outs, kernel_->payload));
    auto products = res.take(kernel_->name, "vjp", argnums.size());
    for (size_t i = 0; i < products.size(); ++i) {
      const auto& primal = primals[argnums[i]];
      expect("vjp", products[i], primal.shape());
      cast(products[i], primal.dtype());
    }
    return products;
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    DefaultStream scope(stream());
    VectorArray res, ins(primals), tans(tangents);
    for (size_t i = 0; i < argnums.size(); ++i) {
      tans.cast(i, primals[argnums[i]].dtype(), stream());
    }
    check(
        "jvp",
        kernel_->vtable->jvp(
            res.out(), ins, tans, argnums.data(), argnums.size(), kernel_->payload));
    auto shapes = output_shapes(primals);
    auto products = res.take(kernel_->name, "jvp", shapes.size());
    for (size_t i = 0; i < products.size(); ++i) {
      expect("jvp", products[i], shapes[i]);
      cast(products[i], applied.dtypes[i]);
    }
    return products;
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs,
      const std::vector<int>& axes) override {
    DefaultStream scope(stream());
    VectorArray res, ins(inputs);
    VectorInt res_axes;
    check(
        "vmap",
        kernel_->vtable->vmap(
            res.out(), res_axes.out(), ins, axes.data(), axes.size(), kernel_->payload));
    auto out_axes = res_axes.take();
    int batch = 1;
    for (size_t i = 0; i < axes.size(); ++i) {
      if (axes[i] >= 0) {
        batch = inputs[i].shape(axes[i]);
      }
    }
    const auto num_outputs = applied.shapes.size();
    auto outputs = res.take(kernel_->name, "vmap", num_outputs);
    bool valid = out_axes.size() == num_outputs;
    for (size_t i = 0; valid && i < num_outputs; ++i) {
      valid = out_axes[i] >= -1 && out_axes[i] < static_cast<int>(outputs[i].ndim());
    }
    if (!valid) {
      throw std::runtime_error(
          "[" + kernel_->name + "] vmap returned an axis that an output does not have.");
    }
    for (size_t i = 0; i < num_outputs; ++i) {
      auto shape = applied.shapes[i];
      if (out_axes[i] >= 0) {
        shape.insert(shape.begin() + out_axes[i], batch);
      }
      expect("vmap", outputs[i], shape);
      if (outputs[i].dtype() != applied.dtypes[i]) {
        std::ostringstream message;
        message << "[" << kernel_->name << "] vmap returned an array of " << outputs[i].dtype()
                << " instead of " << applied.dtypes[i] << ".";
        throw std::runtime_error(message.str());
      }
    }
    // MLX's own operations take it that one of their inputs is mapped, as it is for all others.
    for (size_t i = 0; i < num_outputs; ++i) {
      if (out_axes[i] < 0) {
        auto shape = outputs[i].shape();
        shape.insert(shape.begin(), batch);
        outputs[i] = mx::broadcast_to(outputs[i], shape, stream());
        out_axes[i] = 0;
      }
    }
    return {std::move(outputs), std::move(out_axes)};
  }

  const char* name() const override {
    return kernel_->name.c_str();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    auto* that = dynamic_cast<const GraftPrimitive*>(&other);
    return that && kernel_->vtable == that->kernel_->vtable &&
        kernel_->vtable->is_equivalent(kernel_->payload, that->kernel_->payload);
  }

  // A trace has the outputs that there were when the operation was applied, and MLX takes their
  // number, dtypes and dimensions from there.
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    auto found = specs(inputs);
    if (found.shapes.size() != applied.shapes.size()) {
      throw std::runtime_error(
          "[" + kernel_->name + "] output_specs gave " + std::to_string(found.shapes.size()) +
          " outputs for other shapes, and " + std::to_string(applied.shapes.size()) +
          " when the operation was applied.");
    }
    for (size_t i = 0; i < applied.shapes.size(); ++i) {
      if (found.dtypes[i] != applied.dtypes[i] ||
          found.shapes[i].size() != applied.shapes[i].size()) {
        std::ostringstream message;
        message << "[" << kernel_->name << "] output_specs gave output " << i << " as "
                << found.dtypes[i] << " of shape " << found.shapes[i]
                << " for other shapes, which differs in more than lengths from "
                << applied.dtypes[i] << " of shape " << applied.shapes[i]
                << " when the operation was applied.";
        throw std::runtime_error(message.str());
      }
    }
    return std::move(found.shapes);
  }

  // The outputs when the operation was applied.
  Specs applied;

  // The input that each output is an update of, or -1. Asked when the operation is applied: an
  // answer may evaluate arrays, which no evaluation allows.
  std::vector<int> updates;

  void ask_for_updates() {
    for (size_t i = 0; i < applied.shapes.size(); ++i) {
      const auto ask = kernel_->vtable->updates;
      updates.push_back(ask ? ask(i, kernel_->payload) : -1);
    }
  }

  Specs specs(const std::vector<mx::array>& inputs) const {
    Specs specs;
    VectorArray ins(inputs);
    check("output_specs", kernel_->vtable->output_specs({&specs}, ins, kernel_->payload));
    return specs;
  }

 private:
  // Each output holds the inputs once more, so that to MLX no input would be free. Those of all but
  // one go now; unless they are traced, they would right after this.
  static void release(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    for (auto& out : outputs) {
      if (&out.inputs() != &inputs && !out.is_tracer()) {
        out.inputs().clear();
      }
    }
  }

  // Gives back what `release` took, so that the outputs can be evaluated later.
  static void retain(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    for (auto& out : outputs) {
      if (&out.inputs() != &inputs) {
        out.inputs() = inputs;
      }
    }
  }

  // Whether an output may be written over an input, as MLX's own operations do.
  static bool is_free(const mx::array& in, const mx::array& out) {
    return in.is_donatable() && in.flags().row_contiguous && in.data_size() == out.size() &&
        in.dtype() == out.dtype() &&
        reinterpret_cast<uintptr_t>(in.data<char>()) % in.itemsize() == 0;
  }

  // As MLX's operations without a kernel do: the output is the input.
  void pass(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    if (outputs.size() != 1 || inputs.empty() || outputs[0].shape() != inputs[0].shape() ||
        outputs[0].dtype() != inputs[0].dtype()) {
      throw std::runtime_error(
          "[" + kernel_->name + "] Without a kernel the output is like the first input.");
    }
    outputs[0].copy_shared_buffer(inputs[0]);
  }

  // Throws what the callback recorded: the call that runs it may be one of MLX's own, such as
  // Python's mx.grad, which reads nothing but the exception.
  void check(const char* what, int status) const {
    if (status == 0) {
      return;
    }
    const auto kind = graft_error_last_kind();
    const std::string message = kind == GRAFT_ERROR_NONE
        ? "[" + kernel_->name + "] " + what + " failed."
        : graft_error_last_message();
    graft_error_clear();
    switch (kind) {
      case GRAFT_ERROR_INVALID_ARGUMENT:
        throw std::invalid_argument(message);
      case GRAFT_ERROR_OUT_OF_RANGE:
        throw std::out_of_range(message);
      case GRAFT_ERROR_OVERFLOW:
        throw std::overflow_error(message);
      case GRAFT_ERROR_BAD_ALLOC:
        throw std::bad_alloc();
      default:
        throw std::runtime_error(message);
    }
  }

  // MLX hands a product on as it is, to operations that read it as if it had this dtype.
  void cast(mx::array& product, mx::Dtype dtype) {
    if (product.dtype() != dtype) {
      product = mx::astype(product, dtype, stream());
    }
  }

  void expect(const char* what, const mx::array& found, const mx::Shape& shape) const {
    if (found.shape() != shape) {
      std::ostringstream message;
      message << "[" << kernel_->name << "] " << what << " returned an array of shape "
              << found.shape() << " instead of " << shape << ".";
      throw std::runtime_error(message.str());
    }
  }

  std::shared_ptr<const Kernel> kernel_;
};

} // namespace

bool graft_is_primitive(const mx::Primitive& primitive) {
  return dynamic_cast<const GraftPrimitive*>(&primitive) != nullptr;
}

extern "C" int graft_primitive_specs_append(
    graft_primitive_specs specs,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype) {
  try {
    auto& list = *static_cast<Specs*>(specs.ctx);
    list.shapes.emplace_back(shape, shape + ndim);
    list.dtypes.push_back(mlx_dtype_to_cpp(dtype));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_primitive_apply(
    mlx_vector_array* res,
    const char* name,
    const graft_primitive_vtable* vtable,
    void* payload,
    const mlx_vector_array inputs,
    const mlx_stream s) {
  // Owned before anything can throw, so that no path leaks the payload.
  std::unique_ptr<void, void (*)(void*)> owned(payload, vtable->dtor);
  try {
    auto kernel = std::make_shared<const Kernel>(name, vtable, payload);
    owned.release();
    auto primitive = std::make_shared<GraftPrimitive>(mlx_stream_get_(s), std::move(kernel));
    auto& ins = mlx_vector_array_get_(inputs);
    auto specs = primitive->specs(ins);
    primitive->applied = specs;
    primitive->ask_for_updates();
    mlx_vector_array_set_(
        *res, mx::array::make_arrays(std::move(specs.shapes), specs.dtypes, primitive, ins));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
