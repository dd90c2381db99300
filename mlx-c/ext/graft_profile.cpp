#include "graft_profile.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/primitives.h"
#include "mlx/scheduler.h"
#include "mlx/transforms.h"

namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;

struct Operand {
  mx::Shape shape;
  mx::Dtype dtype;
  uintptr_t buffer;
  size_t buffer_bytes;
  size_t bytes;
};

struct Operation {
  std::string name;
  std::vector<Operand> inputs, outputs;
  int64_t start = 0, end = 0;
};

uintptr_t buffer_of(const mx::array& a) {
  return a.data_shared_ptr() ? reinterpret_cast<uintptr_t>(a.buffer().ptr()) : 0;
}

// Copies no array: another owner would keep MLX from writing a result over its input.
std::vector<Operand> operands(const std::vector<mx::array>& arrays) {
  std::vector<Operand> found;
  found.reserve(arrays.size());
  for (const auto& a : arrays) {
    const auto buffer = buffer_of(a);
    found.push_back(
        {a.shape(),
         a.dtype(),
         buffer,
         buffer ? a.buffer_size() : 0,
         std::min(a.size(), a.data_size()) * a.itemsize()});
  }
  return found;
}

// Shared by the evaluation, the operations of the graph and their tasks on the stream's thread.
class Record {
 public:
  // The number of an operation is the order in which they start.
  Operation& start(const char* name, const std::vector<mx::array>& inputs) {
    return operations_.emplace_back(Operation{name, operands(inputs)});
  }
  int64_t now() const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin_).count();
  }
  std::deque<Operation>& operations() {
    return operations_;
  }

 private:
  // Tasks hold pointers to what is inside, which stays where it is as more is added.
  std::deque<Operation> operations_;
  Clock::time_point begin_ = Clock::now();
};

// Takes the place of an operation, in this graph only: what was compiled keeps its own.
class Watched : public mx::Primitive {
 public:
  Watched(std::shared_ptr<mx::Primitive> inner, std::shared_ptr<Record> record)
      : Primitive(inner->stream()), inner_(std::move(inner)), record_(std::move(record)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& operation = record_->start(name(), inputs);
    // Straight to the thread: tasks of the encoder count towards how far it may run ahead.
    mx::scheduler::enqueue(
        stream(), [record = record_, at = &operation.start] { *at = record->now(); });
    inner_->eval_cpu(inputs, outputs);
    mx::scheduler::enqueue(
        stream(), [record = record_, at = &operation.end] { *at = record->now(); });
    operation.outputs = operands(outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& operation = record_->start(name(), inputs);
    inner_->eval_gpu(inputs, outputs);
    operation.outputs = operands(outputs);
  }

  const char* name() const override {
    return inner_->name();
  }
  const std::shared_ptr<mx::Primitive>& inner() const {
    return inner_;
  }

 private:
  std::shared_ptr<mx::Primitive> inner_;
  std::shared_ptr<Record> record_;
};

bool waits(const mx::array& a) {
  return a.status() == mx::array::Status::unscheduled && a.has_primitive();
}

// The operations that arrays wait for, inputs before outputs, one array of each.
std::vector<mx::array> graph(const std::vector<mx::array>& arrays) {
  std::vector<mx::array> found;
  std::unordered_set<uintptr_t> seen;
  std::vector<std::pair<mx::array, size_t>> path;
  auto enter = [&](const mx::array& a) {
    if (!waits(a) || !seen.insert(a.id()).second) {
      return;
    }
    for (const auto& sibling : a.siblings()) {
      seen.insert(sibling.id());
    }
    path.emplace_back(a, 0);
  };
  for (const auto& a : arrays) {
    enter(a);
    while (!path.empty()) {
      auto& [node, next] = path.back();
      if (next < node.inputs().size()) {
        // A copy, as the path may move when it grows.
        auto input = node.inputs()[next++];
        enter(input);
      } else {
        found.push_back(std::move(node));
        path.pop_back();
      }
    }
  }
  return found;
}

void replace(mx::array& node, const std::shared_ptr<mx::Primitive>& primitive) {
  for (auto& sibling : node.siblings()) {
    sibling.primitive_ptr() = primitive;
  }
  node.primitive_ptr() = primitive;
}

void watch(mx::array& node, const std::shared_ptr<Record>& record) {
  replace(node, std::make_shared<Watched>(node.primitive_ptr(), record));
}

// What a failure left undone may be evaluated once more, when nobody asks for a profile.
void unwatch(const std::vector<mx::array>& arrays) {
  for (auto& node : graph(arrays)) {
    if (auto watched = std::dynamic_pointer_cast<Watched>(node.primitive_ptr())) {
      replace(node, watched->inner());
    }
  }
}

// Takes the nodes, so that each is freed as early as in any other evaluation.
void evaluate_apart(std::vector<mx::array> nodes, Record& record) {
  for (auto& node : nodes) {
    const auto start = record.now();
    std::vector<mx::array> one;
    one.push_back(std::move(node));
    mx::eval(std::move(one));
    const auto end = record.now();
    auto& operation = record.operations().back();
    operation.start = start;
    operation.end = end;
  }
}

std::vector<graft_profile_array> c_arrays(
    const std::vector<Operand>& operands,
    const std::unordered_set<uintptr_t>& kept) {
  std::vector<graft_profile_array> found;
  found.reserve(operands.size());
  for (const auto& o : operands) {
    found.push_back(
        {o.shape.data(),
         o.shape.size(),
         mlx_dtype_to_c(o.dtype),
         o.buffer,
         o.buffer_bytes,
         o.bytes,
         kept.count(o.buffer) > 0});
  }
  return found;
}

} // namespace

extern "C" int graft_profile_eval(
    int64_t* nanoseconds,
    int (*callback)(const graft_profile_operation* operation, void* payload),
    void* payload,
    const mlx_vector_array arrays,
    bool apart) {
  try {
    const auto& wanted = mlx_vector_array_get_(arrays);
    auto nodes = graph(wanted);
    for (const auto& node : nodes) {
      if (node.is_tracer()) {
        throw std::invalid_argument(
            "[profile] Arrays of a function that is being transformed cannot be evaluated.");
      }
      if (!apart && node.primitive().device() == mx::Device::gpu) {
        throw std::invalid_argument(
            "[profile] Operations on a GPU are timed apart only: they run behind the host.");
      }
    }
    auto record = std::make_shared<Record>();
    for (auto& node : nodes) {
      watch(node, record);
    }
    const auto start = record->now();
    try {
      if (apart) {
        evaluate_apart(std::move(nodes), *record);
      } else {
        // Another owner would keep MLX from writing a result over its input.
        nodes.clear();
        mx::eval(wanted);
      }
    } catch (...) {
      unwatch(wanted);
      throw;
    }
    const auto end = record->now();
    std::unordered_set<uintptr_t> kept;
    for (const auto& a : wanted) {
      kept.insert(buffer_of(a));
    }
    for (const auto& operation : record->operations()) {
      const auto inputs = c_arrays(operation.inputs, kept);
      const auto outputs = c_arrays(operation.outputs, kept);
      const graft_profile_operation event{
          operation.name.c_str(),
          inputs.data(),
          inputs.size(),
          outputs.data(),
          outputs.size(),
          operation.start - start,
          operation.end - start};
      if (callback(&event, payload) != 0) {
        throw std::runtime_error("[profile] The callback failed.");
      }
    }
    *nanoseconds = end - start;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
