// Errors that reach Python as ValueError, TypeError and IndexError. torch's own classes are not part of its stable ABI,
// and of the standard library's torch 2.15 makes RuntimeErrors.
#pragma once

#include <stdexcept>

extern "C" {  // of Python's limited API
extern struct _object *PyExc_ValueError, *PyExc_TypeError, *PyExc_IndexError;
void PyErr_SetString(struct _object* type, const char* message);
}

namespace pybind11 {

// torch's Python binding, pybind11, knows its own exceptions by this name and asks them to set Python's. Were that to
// change, Python would see a RuntimeError with the same message (tests/ops finds out).
struct __attribute__((visibility("default"))) builtin_exception : std::runtime_error {
  using std::runtime_error::runtime_error;
  virtual void set_error() const = 0;
};

}  // namespace pybind11

namespace ulmfit_fast {

template <struct _object*& type>
struct PythonError final : pybind11::builtin_exception {
  using builtin_exception::builtin_exception;
  void set_error() const override { PyErr_SetString(type, what()); }
};

using ValueError = PythonError<PyExc_ValueError>;
using TypeError = PythonError<PyExc_TypeError>;
using IndexError = PythonError<PyExc_IndexError>;

}  // namespace ulmfit_fast
