// kernels.h: tpu_custom_call as a handler of XLA's typed interface for foreign functions, which tells the device and the arrays' types.
#include "kernels.h"

#include <atomic>
#include <string>
#include <vector>

#include "kernels_internal.h"
#include "xla/ffi/api/c_api.h"
#include "xla/primitive_util.h"

namespace xla::ffi {
const XLA_FFI_Api *GetXlaFfiApi();  // xla/ffi/ffi_api.h
}

namespace {

std::atomic<systolic_kernel_fn *> runner{nullptr};

XLA_FFI_Error *error(const XLA_FFI_CallFrame *f, const std::string &message) {
  XLA_FFI_Error_Create_Args a{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message.c_str(), XLA_FFI_Error_Code_INVALID_ARGUMENT};
  return f->api->XLA_FFI_Error_Create(&a);
}

// XLA asks a handler for which version of the interface it was made.
bool tell_metadata(XLA_FFI_CallFrame *f) {
  if (!f->extension_start || f->extension_start->type != XLA_FFI_Extension_Metadata) return false;
  auto *m = reinterpret_cast<XLA_FFI_Metadata_Extension *>(f->extension_start)->metadata;
  m->api_version.major_version = XLA_FFI_API_MAJOR;
  m->api_version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

systolic_kernel_array array_of(const void *buffer) {
  const auto *b = static_cast<const XLA_FFI_Buffer *>(buffer);
  return {b->data, xla::primitive_util::LowercasePrimitiveTypeName(static_cast<xla::PrimitiveType>(b->dtype)).c_str(), b->rank, b->dims};
}

XLA_FFI_Error *run_kernel(XLA_FFI_CallFrame *f) {
  if (tell_metadata(f)) return nullptr;
  systolic_kernel_fn *run = runner.load();
  if (!run) return error(f, "a Mosaic kernel on XLA:CPU, and nobody interprets it (tools/pjrt-cpu/kernels.h)");
  std::vector<systolic_kernel_array> in, out;
  for (int64_t i = 0; i < f->args.size; i++) in.push_back(array_of(f->args.args[i]));
  for (int64_t i = 0; i < f->rets.size; i++) out.push_back(array_of(f->rets.rets[i]));
  if (f->attrs.size != 1 || f->attrs.types[0] != XLA_FFI_AttrType_STRING) return error(f, "a kernel's call without its configuration");
  const auto *config = static_cast<const XLA_FFI_ByteSpan *>(f->attrs.attrs[0]);
  XLA_FFI_RunId_Get_Args id{XLA_FFI_RunId_Get_Args_STRUCT_SIZE, nullptr, f->ctx, 0};
  if (XLA_FFI_Error *e = f->api->XLA_FFI_RunId_Get(&id)) return e;
  XLA_FFI_DeviceOrdinal_Get_Args device{XLA_FFI_DeviceOrdinal_Get_Args_STRUCT_SIZE, nullptr, f->ctx, 0};
  if (XLA_FFI_Error *e = f->api->XLA_FFI_DeviceOrdinal_Get(&device)) return e;
  const systolic_kernel_call call = {config->ptr, config->len, id.run_id, device.device_ordinal, static_cast<int>(in.size()), static_cast<int>(out.size()), in.data(), out.data()};
  const char *wrong = run(&call);
  return wrong ? error(f, wrong) : nullptr;
}

// Where the string that begins at text[at] ends, behind its closing quote; npos if it does not.
size_t end_of_string(const std::string &text, size_t at) {
  for (at++; at < text.size(); at++) {
    if (text[at] == '\\') at++;
    else if (text[at] == '"') return at + 1;
  }
  return std::string::npos;
}

}  // namespace

void register_kernels() {
  static const XLA_FFI_Error *once = [] {
    static const char name[] = "tpu_custom_call", platform[] = "Host";
    XLA_FFI_Handler_Register_Args a{XLA_FFI_Handler_Register_Args_STRUCT_SIZE, nullptr, {name, sizeof name - 1}, {platform, sizeof platform - 1}, {nullptr, nullptr, nullptr, run_kernel}, 0};
    return xla::ffi::GetXlaFfiApi()->XLA_FFI_Handler_Register(&a);
  }();
  (void)once;
}

// The typed interface wants a call's configuration in a dictionary, and its number.
std::string typed_kernel_calls(std::string text) {
  static const std::string call = "@tpu_custom_call(", config = "{backend_config = ";
  for (size_t at = 0; (at = text.find(call, at)) != std::string::npos; at += call.size()) {
    size_t from = text.find(config, at);
    size_t to = from == std::string::npos ? from : end_of_string(text, from + config.size());
    if (to == std::string::npos) break;     // the parser will say what is wrong
    text.insert(to, "}");
    text.replace(from, config.size(), "{api_version = 4 : i32, backend_config = {config = ");
  }
  return text;
}

extern "C" __attribute__((visibility("default"))) void systolic_pjrt_cpu_kernels(systolic_kernel_fn *run) { runner.store(run); }
