#include "graft_export.h"

#include <deque>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/export.h"

namespace {

namespace mx = mlx::core;

using Named = std::vector<std::tuple<std::string, mx::Shape, mx::Dtype>>;
using Constants = std::vector<std::pair<std::string, mx::array>>;
using Keywords = std::vector<std::pair<std::string, std::string>>;

// The C view of a part of the graph. It points into the part, and into what it holds itself.
class Event {
 public:
  explicit Event(const mx::ExportCallbackInput& part) {
    const auto& type = std::get<std::string>(part.at("type"));
    if (type == "inputs") {
      event_.kind = GRAFT_EXPORT_INPUTS;
    } else if (type == "keyword_inputs") {
      event_.kind = GRAFT_EXPORT_KEYWORD_INPUTS;
    } else if (type == "outputs") {
      event_.kind = GRAFT_EXPORT_OUTPUTS;
    } else if (type == "constants") {
      event_.kind = GRAFT_EXPORT_CONSTANTS;
    } else if (type == "primitive") {
      event_.kind = GRAFT_EXPORT_PRIMITIVE;
      event_.name = std::get<std::string>(part.at("name")).c_str();
    } else {
      throw std::runtime_error("[export_function] Unknown part of a graph: " + type);
    }
    for (const auto& [key, value] : part) {
      if (key == "inputs") {
        arrays(inputs_, std::get<Named>(value));
      } else if (key == "outputs") {
        arrays(outputs_, std::get<Named>(value));
      } else if (key == "keywords") {
        for (const auto& [keyword, name] : std::get<Keywords>(value)) {
          keywords_.push_back({keyword.c_str(), name.c_str()});
        }
      } else if (key == "constants") {
        for (const auto& [name, array] : std::get<Constants>(value)) {
          // Borrowed: the callback copies the handle if it keeps the array.
          constants_.push_back({name.c_str(), {const_cast<mx::array*>(&array)}});
        }
      } else if (key == "arguments") {
        for (const auto& state : std::get<std::vector<mx::StateT>>(value)) {
          arguments_.push_back(std::visit([this](const auto& v) { return argument(v); }, state));
        }
      }
    }
    event_.inputs = inputs_.data();
    event_.num_inputs = inputs_.size();
    event_.outputs = outputs_.data();
    event_.num_outputs = outputs_.size();
    event_.keywords = keywords_.data();
    event_.num_keywords = keywords_.size();
    event_.constants = constants_.data();
    event_.num_constants = constants_.size();
    event_.arguments = arguments_.data();
    event_.num_arguments = arguments_.size();
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  const graft_export_event* get() const {
    return &event_;
  }

 private:
  static void arrays(std::vector<graft_export_array>& to, const Named& from) {
    for (const auto& [name, shape, dtype] : from) {
      to.push_back({name.c_str(), shape.data(), shape.size(), mlx_dtype_to_c(dtype)});
    }
  }

  template <typename T>
  graft_export_argument argument(const T& value) {
    graft_export_argument out{};
    if constexpr (std::is_same_v<T, bool>) {
      out.kind = GRAFT_EXPORT_BOOL;
      out.integer = value;
    } else if constexpr (std::is_integral_v<T>) {
      out.kind = GRAFT_EXPORT_INT;
      out.integer = static_cast<int64_t>(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      out.kind = GRAFT_EXPORT_FLOAT;
      out.real = value;
    } else if constexpr (std::is_same_v<T, mx::Dtype>) {
      out.kind = GRAFT_EXPORT_DTYPE;
      out.dtype = mlx_dtype_to_c(value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      out.kind = GRAFT_EXPORT_STRING;
      out.text = value.c_str();
    } else if constexpr (std::is_same_v<T, std::optional<float>>) {
      if (value) {
        out = argument(*value);
      }
    } else if constexpr (std::is_same_v<T, std::tuple<bool, bool, bool>>) {
      auto [a, b, c] = value;
      out = items(GRAFT_EXPORT_TUPLE, std::vector<char>{a, b, c}, [this](char v) {
        return argument(static_cast<bool>(v));
      });
    } else if constexpr (std::is_same_v<T, std::variant<bool, int, float>>) {
      out = std::visit([this](const auto& v) { return argument(v); }, value);
    } else {
      constexpr bool shape = std::is_same_v<T, mx::Shape> || std::is_same_v<T, mx::Strides>;
      out = items(shape ? GRAFT_EXPORT_SHAPE : GRAFT_EXPORT_LIST, value, [this](const auto& v) {
        return argument(v);
      });
    }
    return out;
  }

  template <typename T, typename F>
  graft_export_argument items(graft_export_argument_kind kind, const T& values, F convert) {
    std::vector<graft_export_argument> converted;
    for (const auto& value : values) {
      converted.push_back(convert(value));
    }
    // A deque keeps its elements where they are.
    const auto& kept = nested_.emplace_back(std::move(converted));
    graft_export_argument out{};
    out.kind = kind;
    out.items = kept.data();
    out.num_items = kept.size();
    return out;
  }

  graft_export_event event_{};
  std::vector<graft_export_array> inputs_, outputs_;
  std::vector<graft_export_keyword> keywords_;
  std::vector<graft_export_constant> constants_;
  std::vector<graft_export_argument> arguments_;
  std::deque<std::vector<graft_export_argument>> nested_;
};

} // namespace

extern "C" mlx_function_exporter graft_function_exporter_new(
    const char* file,
    const mlx_closure_kwargs fun,
    bool shapeless,
    const char* metadata) {
  try {
    return mlx_function_exporter_new_(
        mx::exporter(std::string(file), mlx_closure_kwargs_get_(fun), shapeless, metadata));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return {nullptr};
  }
}

extern "C" int graft_imported_function_metadata(
    mlx_string* res,
    const mlx_imported_function xfunc) {
  try {
    mlx_string_set_(*res, mlx_imported_function_get_(xfunc).metadata());
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_export_function_callback(
    int (*callback)(const graft_export_event* event, void* payload),
    void* payload,
    const mlx_closure_kwargs fun,
    const mlx_vector_array args,
    const mlx_map_string_to_array kwargs,
    bool shapeless) {
  try {
    mx::ExportCallback forward = [callback, payload](const mx::ExportCallbackInput& part) {
      if (callback(Event(part).get(), payload) != 0) {
        throw std::runtime_error("[export_function] The callback failed.");
      }
    };
    mx::export_function(
        forward,
        mlx_closure_kwargs_get_(fun),
        mlx_vector_array_get_(args),
        mlx_map_string_to_array_get_(kwargs),
        shapeless);
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
