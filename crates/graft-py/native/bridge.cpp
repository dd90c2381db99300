// The nanobind half of the module: arrays in and out as the C++ objects that mlx.core holds.
#include <nanobind/nanobind.h>

#include <utility>

#include "mlx/array.h"

namespace nb = nanobind;
using mlx::core::array;

// Joins mlx.core's registry of types. Returns whether `type` is the array class of that registry.
extern "C" bool graft_bridge_join(PyObject* module, PyObject* type) {
  try {
    nb::detail::nb_module_exec("mlx", module);
    return nb::type<array>().ptr() == type;
  } catch (...) {
    return false;
  }
}

// The C++ array behind a Python object, null if it is no array. Borrowed from the object.
extern "C" const void* graft_bridge_from_python(PyObject* object) {
  nb::handle handle(object);
  if (!nb::isinstance<array>(handle)) {
    return nullptr;
  }
  return nb::inst_ptr<array>(handle);
}

// A new Python object that the C++ array moves into, null with a Python error set if it fails.
extern "C" PyObject* graft_bridge_to_python(void* value) {
  try {
    return nb::cast(std::move(*static_cast<array*>(value))).release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
    return nullptr;
  } catch (std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
    return nullptr;
  }
}
