// The classes of errors that reach Python as ValueError, TypeError and IndexError. torch's own are not part of its
// stable ABI; these are what its Python binding, pybind11, translates whoever throws them.
#pragma once

#include <stdexcept>

extern "C" {
extern struct _object* PyExc_TypeError;  // of Python's limited API
void PyErr_SetString(struct _object* type, const char* message);
}

namespace pybind11 {

// The standard library has nothing that means TypeError. pybind11 knows its own exceptions by this name and asks them
// to set Python's; were it to change, Python would see a RuntimeError with the same message (tests/ops finds out).
struct __attribute__((visibility("default"))) builtin_exception : std::runtime_error {
  using std::runtime_error::runtime_error;
  virtual void set_error() const = 0;
};

}  // namespace pybind11

namespace ulmfit_fast {

using ValueError = std::invalid_argument;
using IndexError = std::out_of_range;

struct TypeError final : pybind11::builtin_exception {
  using builtin_exception::builtin_exception;
  void set_error() const override { PyErr_SetString(PyExc_TypeError, what()); }
};

}  // namespace ulmfit_fast
