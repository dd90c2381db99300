#include "graft_error.h"

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "mlx/c/error.h"

namespace {

struct LastError {
  graft_error_kind kind = GRAFT_ERROR_NONE;
  std::string message;
};

thread_local LastError last_error;

// mlx-c calls the handler inside its catch block, so the exception can be thrown once more to
// learn its type. The groups are those of nanobind's translation to Python exceptions.
graft_error_kind current_kind() {
  if (!std::current_exception()) {
    return GRAFT_ERROR_RUNTIME;
  }
  try {
    throw;
  } catch (const std::invalid_argument&) {
    return GRAFT_ERROR_INVALID_ARGUMENT;
  } catch (const std::domain_error&) {
    return GRAFT_ERROR_INVALID_ARGUMENT;
  } catch (const std::length_error&) {
    return GRAFT_ERROR_INVALID_ARGUMENT;
  } catch (const std::range_error&) {
    return GRAFT_ERROR_INVALID_ARGUMENT;
  } catch (const std::out_of_range&) {
    return GRAFT_ERROR_OUT_OF_RANGE;
  } catch (const std::overflow_error&) {
    return GRAFT_ERROR_OVERFLOW;
  } catch (const std::bad_alloc&) {
    return GRAFT_ERROR_BAD_ALLOC;
  } catch (...) {
    return GRAFT_ERROR_RUNTIME;
  }
}

void handle(const char* message, void*) {
  try {
    last_error.kind = current_kind();
    last_error.message = message;
    // mlx-c appends " at FILE:LINE" of its own source, which says nothing to a caller.
    const auto at = last_error.message.rfind(" at ");
    if (at != std::string::npos && last_error.message.find(".cpp:", at) != std::string::npos) {
      last_error.message.resize(at);
    }
  } catch (...) {
    last_error.kind = GRAFT_ERROR_BAD_ALLOC;
  }
}

} // namespace

extern "C" void graft_error_install(void) {
  mlx_set_error_handler(handle, nullptr, nullptr);
}

extern "C" graft_error_kind graft_error_last_kind(void) {
  return last_error.kind;
}

extern "C" const char* graft_error_last_message(void) {
  return last_error.message.c_str();
}

extern "C" void graft_error_set(graft_error_kind kind, const char* message) {
  try {
    last_error.message = message;
    last_error.kind = kind;
  } catch (...) {
    last_error.kind = GRAFT_ERROR_BAD_ALLOC;
  }
}

extern "C" void graft_error_clear(void) {
  last_error.kind = GRAFT_ERROR_NONE;
  last_error.message.clear();
}
