// The nanobind half of the module: arrays, devices, streams, dtypes and groups in and out as the
// C++ objects that mlx.core holds.
#include <nanobind/nanobind.h>

#include <new>
#include <utility>

#include "mlx/array.h"
#include "mlx/distributed/distributed.h"
#include "mlx/stream.h"

namespace nb = nanobind;
using mlx::core::array;
using mlx::core::Device;
using mlx::core::Dtype;
using mlx::core::Stream;
using mlx::core::ThreadLocalStream;
using mlx::core::distributed::Group;

namespace {

// The class of arrays. Arrays pass here with every call, and this spares the search in the registry.
PyTypeObject* array_type = nullptr;

// The C++ object behind a Python object, null if it is of another type. Borrowed from the object.
template <typename T>
const T* borrowed(PyObject* object) {
  nb::handle handle(object);
  return nb::isinstance<T>(handle) ? nb::inst_ptr<T>(handle) : nullptr;
}

// A new Python object that the C++ one is moved or copied into, null with a Python error set if it
// fails.
template <typename T>
PyObject* made(T&& value) {
  try {
    return nb::cast(std::forward<T>(value)).release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
    return nullptr;
  } catch (std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
    return nullptr;
  }
}

} // namespace

// Joins mlx.core's registry of types. Returns whether `type` is the array class of that registry.
extern "C" bool graft_bridge_join(PyObject* type) {
  try {
    // nanobind asks for the module and does not use it.
    nb::detail::nb_module_exec("mlx", nullptr);
    array_type = reinterpret_cast<PyTypeObject*>(type);
    return nb::type<array>().ptr() == type;
  } catch (...) {
    return false;
  }
}

extern "C" const void* graft_bridge_array_from_python(PyObject* object) {
  return Py_TYPE(object) == array_type ? nb::inst_ptr<array>(nb::handle(object))
                                       : borrowed<array>(object);
}

// Moves out of the array.
extern "C" PyObject* graft_bridge_array_to_python(void* value) {
  try {
    nb::object object = nb::inst_alloc(nb::handle(reinterpret_cast<PyObject*>(array_type)));
    new (nb::inst_ptr<array>(object)) array(std::move(*static_cast<array*>(value)));
    nb::inst_mark_ready(object);
    return object.release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
    return nullptr;
  }
}

extern "C" const void* graft_bridge_device_from_python(PyObject* object) {
  return borrowed<Device>(object);
}

extern "C" PyObject* graft_bridge_device_to_python(bool gpu, int index) {
  return made(Device(gpu ? Device::gpu : Device::cpu, index));
}

// 0 for mlx.core.cpu, 1 for mlx.core.gpu, -1 if the object is no device type. As in mlx.core, their
// numbers count as the types.
extern "C" int graft_bridge_device_type_from_python(PyObject* object) {
  Device::DeviceType type = Device::cpu;
  if (!nb::try_cast(nb::handle(object), type, true)) {
    return -1;
  }
  return type == Device::gpu;
}

extern "C" const void* graft_bridge_stream_from_python(PyObject* object) {
  return borrowed<Stream>(object);
}

extern "C" PyObject* graft_bridge_stream_to_python(const void* value) {
  return made(*static_cast<const Stream*>(value));
}

extern "C" const void* graft_bridge_thread_local_stream_from_python(PyObject* object) {
  return borrowed<ThreadLocalStream>(object);
}

extern "C" PyObject* graft_bridge_thread_local_stream_to_python(const void* value) {
  return made(*static_cast<const ThreadLocalStream*>(value));
}

// Dtypes cross as their number in MLX, which the list in Rust follows.
constexpr Dtype dtypes[] = {
    mlx::core::bool_,   mlx::core::uint8,    mlx::core::uint16,  mlx::core::uint32,
    mlx::core::uint64,  mlx::core::int8,     mlx::core::int16,   mlx::core::int32,
    mlx::core::int64,   mlx::core::float16,  mlx::core::float32, mlx::core::float64,
    mlx::core::bfloat16, mlx::core::complex64,
};

constexpr bool in_order() {
  for (size_t i = 0; i < std::size(dtypes); i++) {
    if (static_cast<size_t>(dtypes[i].val()) != i) {
      return false;
    }
  }
  return true;
}

static_assert(in_order());

// -1 if the object is no dtype.
extern "C" int graft_bridge_dtype_from_python(PyObject* object) {
  auto* dtype = borrowed<Dtype>(object);
  return dtype ? static_cast<int>(dtype->val()) : -1;
}

extern "C" PyObject* graft_bridge_dtype_to_python(size_t number) {
  return made(dtypes[number]);
}

// A new C++ group, null if the object is none. It belongs to the caller.
extern "C" void* graft_bridge_group_from_python(PyObject* object) {
  auto* group = borrowed<Group>(object);
  return group ? new Group(*group) : nullptr;
}

extern "C" PyObject* graft_bridge_group_to_python(const void* value) {
  return made(*static_cast<const Group*>(value));
}
