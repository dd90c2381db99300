// The operations of a graph, and what they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"

namespace graft {

inline const mlx::core::array& input(const mlx::core::array& a, size_t i) {
  return a.inputs().at(i);
}

// The primitive of an array, whose class is known by its name. The state of such classes is inline:
// no symbol of them is needed.
template <typename P>
const P& as(const mlx::core::array& a) {
  return static_cast<const P&>(a.primitive());
}

// Calls `visit` with each operation between `inputs` and `outputs`. It does not change the graph.
template <typename F>
void visit_operations(
    const std::vector<mlx::core::array>& outputs,
    const std::vector<mlx::core::array>& inputs,
    F visit) {
  using mlx::core::array;
  std::unordered_set<std::uintptr_t> seen;
  for (auto& input : inputs) {
    seen.insert(input.id());
  }
  std::vector<const array*> rest;
  const auto add = [&](const std::vector<array>& arrays) {
    for (auto& a : arrays) {
      if (a.has_primitive() && !a.inputs().empty() && seen.insert(a.id()).second) {
        rest.push_back(&a);
      }
    }
  };
  add(outputs);
  while (!rest.empty()) {
    const auto& a = *rest.back();
    rest.pop_back();
    visit(a);
    add(a.inputs());
  }
}

} // namespace graft
