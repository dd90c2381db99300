#include "graft_compile.h"

#include <memory>
#include <unordered_set>

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/compile_impl.h"

using mlx::core::array;
using mlx::core::detail::ArrayFnWithExtra;
using mlx::core::detail::ArraysAndExtra;
using Extra = std::shared_ptr<void>;

namespace {

ArrayFnWithExtra& get(graft_closure_extra cls) {
  if (!cls.ctx) {
    throw std::runtime_error("expected a non-empty graft_closure_extra");
  }
  return *static_cast<ArrayFnWithExtra*>(cls.ctx);
}

void set(graft_closure_extra& cls, ArrayFnWithExtra fun) {
  if (cls.ctx) {
    *static_cast<ArrayFnWithExtra*>(cls.ctx) = std::move(fun);
  } else {
    cls.ctx = new ArrayFnWithExtra(std::move(fun));
  }
}

void set(graft_extra& extra, Extra value) {
  if (extra.ctx) {
    *static_cast<Extra*>(extra.ctx) = std::move(value);
  } else if (value) {
    extra.ctx = new Extra(std::move(value));
  }
}

// The handles of one call from C++ into a callback.
struct Call {
  mlx_vector_array input = mlx_vector_array_new();
  mlx_vector_array res = mlx_vector_array_new();
  graft_extra extra = {nullptr};

  ~Call() {
    mlx_vector_array_free(input);
    mlx_vector_array_free(res);
    graft_extra_free(extra);
  }
};

} // namespace

extern "C" graft_extra graft_extra_new(void) {
  return {nullptr};
}

extern "C" graft_extra graft_extra_new_payload(
    void* payload,
    void (*dtor)(void*)) {
  try {
    return {new Extra(payload, dtor)};
  } catch (std::exception& e) {
    mlx_error(e.what());
    return {nullptr};
  }
}

extern "C" void* graft_extra_payload(const graft_extra extra) {
  return extra.ctx ? static_cast<Extra*>(extra.ctx)->get() : nullptr;
}

extern "C" int graft_extra_free(graft_extra extra) {
  delete static_cast<Extra*>(extra.ctx);
  return 0;
}

extern "C" graft_closure_extra graft_closure_extra_new(void) {
  return {nullptr};
}

extern "C" graft_closure_extra graft_closure_extra_new_func_payload(
    int (*fun)(mlx_vector_array*, graft_extra*, const mlx_vector_array, void*),
    void* payload,
    void (*dtor)(void*)) {
  try {
    auto owned = std::shared_ptr<void>(payload, dtor);
    graft_closure_extra cls = {nullptr};
    set(cls, [fun, owned](const std::vector<array>& input) {
      Call call;
      mlx_vector_array_set_(call.input, input);
      if (fun(&call.res, &call.extra, call.input, owned.get())) {
        throw std::runtime_error("graft_closure_extra returned a non-zero value");
      }
      auto extra = call.extra.ctx ? *static_cast<Extra*>(call.extra.ctx) : Extra();
      return ArraysAndExtra{mlx_vector_array_get_(call.res), std::move(extra)};
    });
    return cls;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return {nullptr};
  }
}

extern "C" int graft_closure_extra_apply(
    mlx_vector_array* res_0,
    graft_extra* res_1,
    graft_closure_extra cls,
    const mlx_vector_array input) {
  try {
    auto [arrays, extra] = get(cls)(mlx_vector_array_get_(input));
    mlx_vector_array_set_(*res_0, std::move(arrays));
    set(*res_1, std::move(extra));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_closure_extra_free(graft_closure_extra cls) {
  delete static_cast<ArrayFnWithExtra*>(cls.ctx);
  return 0;
}

extern "C" int graft_detail_compile_extra(
    graft_closure_extra* res,
    const graft_closure_extra fun,
    uintptr_t fun_id,
    bool shapeless,
    const uint64_t* constants,
    size_t constants_num) {
  try {
    set(*res,
        mlx::core::detail::compile(
            get(fun),
            fun_id,
            shapeless,
            std::vector<uint64_t>(constants, constants + constants_num)));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_trace_siblings(
    mlx_vector_array* res,
    const mlx_vector_array outputs,
    const mlx_vector_array inputs) {
  try {
    std::vector<array> found;
    std::unordered_set<std::uintptr_t> seen;
    for (auto& input : mlx_vector_array_get_(inputs)) {
      seen.insert(input.id());
    }
    auto rest = mlx_vector_array_get_(outputs);
    while (!rest.empty()) {
      auto a = std::move(rest.back());
      rest.pop_back();
      if (!seen.insert(a.id()).second || !a.has_primitive()) {
        continue;
      }
      for (auto& sibling : a.siblings()) {
        seen.insert(sibling.id());
      }
      rest.insert(rest.end(), a.inputs().begin(), a.inputs().end());
      if (!a.siblings().empty()) {
        found.push_back(std::move(a));
      }
    }
    mlx_vector_array_set_(*res, std::move(found));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
