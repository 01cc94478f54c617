// The Python module ulmfit_fast._C, in Python's limited API: what is no op. Importing it registers the ops
// (library.cpp).
#define PY_SSIZE_T_CLEAN
#include <Python.h>  // first, as Python asks

#include <exception>
#include <stdexcept>
#include <string>

#include "cpu/gemm/fma_probe.h"
#include "cpu/gemm/read_probe.h"
#include "cpu/lstm/lstm_call.h"
#include "cpu/runtime/dispatch.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/parallel.h"

namespace {

#ifdef ULMFIT_WITH_CUDA
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

// Null with Python's error set, for what `work` threw.
template <typename Work>
PyObject* with_errors_of_python(Work work) {
  try {
    return work();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyObject* build_info(PyObject*, PyObject*) {
  return with_errors_of_python([] {
    const char* isa = ulmfit_fast::isa_name(ulmfit_fast::active_isa());
    return Py_BuildValue("{s:s, s:s, s:O, s:s}", "torch", ULMFIT_TORCH, "compiler", ULMFIT_COMPILER, "cuda",
                         kWithCuda ? Py_True : Py_False, "isa", isa);
  });
}

// What `work` measures, while Python's other threads run.
template <typename Work>
PyObject* measured(Work work) {
  return with_errors_of_python([&] {
    PyThreadState* state = PyEval_SaveThread();
    double result = 0;
    std::exception_ptr error;
    try {
      result = work();
    } catch (...) {
      error = std::current_exception();
    }
    PyEval_RestoreThread(state);
    if (error) std::rethrow_exception(error);
    return PyFloat_FromDouble(result);
  });
}

PyObject* measure_fma_peak(PyObject*, PyObject* arguments, PyObject* keywords) {
  static const char* names[] = {"dtype", "seconds", nullptr};
  const char* dtype = nullptr;
  double seconds = 0.1;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "s|d", const_cast<char**>(names), &dtype, &seconds))
    return nullptr;
  return measured([&] { return ulmfit_fast::measure_fma_peak(dtype, seconds); });
}

PyObject* measure_read_bandwidth(PyObject*, PyObject* arguments, PyObject* keywords) {
  static const char* names[] = {"bytes", "seconds", nullptr};
  long long bytes = 0;
  double seconds = 0.1;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "L|d", const_cast<char**>(names), &bytes, &seconds))
    return nullptr;
  return measured([&] { return ulmfit_fast::measure_read_bandwidth(bytes, seconds); });
}

ulmfit_fast::ScalarType dtype_named(const std::string& name) {
  using ulmfit_fast::ScalarType;
  if (name == "float32") return ScalarType::Float;
  if (name == "float64") return ScalarType::Double;
  if (name == "bfloat16") return ScalarType::BFloat16;
  if (name == "int8") return ScalarType::Char;
  throw std::invalid_argument("lstm_packed_bytes: dtype must be float32, float64, bfloat16 or int8, got " + name);
}

// What lstm_pack (dtype int8: lstm_quantized_pack) returns, in bytes: the fake kernels ask.
PyObject* lstm_packed_bytes(PyObject*, PyObject* arguments) {
  const char* dtype = nullptr;
  long long input = 0, hidden = 0, output = 0;
  int projected = 0;
  if (!PyArg_ParseTuple(arguments, "sLLLp", &dtype, &input, &hidden, &output, &projected)) return nullptr;
  return with_errors_of_python([&] {
    return PyLong_FromLongLong(
        ulmfit_fast::lstm_packed_bytes(dtype_named(dtype), input, hidden, output, projected != 0));
  });
}

template <std::atomic<bool>& setting>
PyObject* set(PyObject*, PyObject* value) {
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) return nullptr;
  setting = truth == 1;
  Py_RETURN_NONE;
}

// A function of three arguments as the table of methods holds it.
PyCFunction with_keywords(PyCFunctionWithKeywords function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, nullptr},
    {"measure_fma_peak", with_keywords(measure_fma_peak), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"measure_read_bandwidth", with_keywords(measure_read_bandwidth), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"lstm_packed_bytes", lstm_packed_bytes, METH_VARARGS, nullptr},
    {"allow_teams", set<ulmfit_fast::teams_allowed>, METH_O, nullptr},
    {"fill_new_memory", set<ulmfit_fast::fill_new_memory>, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_C",
                          "The native module: registers the ops under torch.ops.ulmfit_fast.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  return PyModule_Create(&definition);
}
