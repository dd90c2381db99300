// A stand-in for std::format where the standard library has no <format> (GCC 12), force-included
// into every source. mlx-c uses it in one private header with bare "{}" placeholders only, and
// that is all this supports.
#pragma once

#if defined(__cplusplus) && !__has_include(<format>)

#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>

namespace std {

template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  size_t at = 0;
  auto up_to_placeholder = [&] {
    const size_t hole = pattern.find("{}", at);
    out << pattern.substr(at, hole - at);
    at = hole == string_view::npos ? pattern.size() : hole + 2;
  };
  ((up_to_placeholder(), out << args), ...);
  out << pattern.substr(at);
  return out.str();
}

} // namespace std

#endif
