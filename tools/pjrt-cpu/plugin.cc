// A PJRT plugin (GetPjrtApi) over XLA:CPU as linked into the tensorflow-cpu wheel, for testing the PJRT device without an
// accelerator: N virtual devices, collectives, donation, serialised executables, a topology by name ("cpu:N").
// Functions of the API that Systolic does not use answer UNIMPLEMENTED. Every entry is as thread-safe as XLA's client.
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/globals.h"
#include "kernels_internal.h"
#include "xla/future.h"
#include "xla/literal.h"
#include "xla/pjrt/c/pjrt_c_api.h"
#include "xla/pjrt/pjrt_client.h"
#include "xla/pjrt/pjrt_executable.h"
#include "xla/pjrt/plugin/xla_cpu/cpu_client_options.h"
#include "xla/pjrt/plugin/xla_cpu/xla_cpu_pjrt_client.h"
#include "xla/pjrt/proto/compile_options.pb.h"
#include "xla/shape_util.h"

// Declared in xla/pjrt/mlir_to_hlo.h, which needs MLIR's headers.
namespace xla {
absl::StatusOr<mlir::OwningOpRef<mlir::ModuleOp>> ParseMlirModuleString(absl::string_view, mlir::MLIRContext &);
std::string GetDefaultStablehloVersion();
}  // namespace xla

// ---- what the API's opaque types are here ----
struct PJRT_Error {
  absl::Status status;
  std::string message;
};
struct PJRT_Event {
  xla::Future<> future;
};
struct PJRT_Memory {
  xla::PjRtMemorySpace *memory;
  std::string kind;
};
struct PJRT_DeviceDescription {
  xla::PjRtDevice *device;
  std::string kind, debug, text;
};
struct PJRT_Device {
  xla::PjRtDevice *device;
  PJRT_DeviceDescription description;
  PJRT_Memory *default_memory = nullptr;
  std::vector<PJRT_Memory *> memories;
};
struct PJRT_TopologyDescription {
  PJRT_Client *client;                 // its devices are the topology's
  std::unique_ptr<PJRT_Client> owned;  // when made by name
  std::vector<PJRT_DeviceDescription *> descriptions;
};
struct PJRT_Client {
  std::unique_ptr<xla::PjRtClient> client;
  std::string name, version;
  std::vector<std::unique_ptr<PJRT_Device>> owned_devices;
  std::vector<PJRT_Device *> devices;
  std::vector<std::unique_ptr<PJRT_Memory>> owned_memories;
  std::vector<PJRT_Memory *> memories;
  std::unique_ptr<PJRT_TopologyDescription> topology;

  PJRT_Device *find(const xla::PjRtDevice *d) const {
    for (PJRT_Device *p : devices)
      if (p->device == d) return p;
    return nullptr;
  }
  PJRT_Memory *find(const xla::PjRtMemorySpace *m) const {
    for (PJRT_Memory *p : memories)
      if (p->memory == m) return p;
    return nullptr;
  }
};
struct PJRT_LoadedExecutable {
  std::shared_ptr<xla::PjRtLoadedExecutable> loaded;
  PJRT_Client *client;
  std::vector<PJRT_Device *> devices;
  std::string fingerprint;
};
struct PJRT_Executable {
  std::shared_ptr<xla::PjRtLoadedExecutable> loaded;  // keeps `executable` alive when it came from one
  std::unique_ptr<xla::PjRtExecutable> owned;
  xla::PjRtExecutable *executable;
  std::string name, fingerprint;
  bool have_outputs = false, have_cost = false;
  std::vector<PJRT_Buffer_Type> output_types;
  std::vector<int64_t> output_dims;
  std::vector<size_t> output_ranks;
  std::vector<std::string> cost_names;
  std::vector<PJRT_NamedValue> cost;
};
struct PJRT_SerializedExecutable {
  std::string bytes;
};
struct PJRT_SerializedTopology {
  std::string bytes;
};
struct PJRT_Buffer {
  std::unique_ptr<xla::PjRtBuffer> buffer;
  PJRT_Client *client;
};

namespace {

PJRT_Error *error_of(const absl::Status &s) { return s.ok() ? nullptr : new PJRT_Error{s, std::string(s.message())}; }
PJRT_Error *invalid(const std::string &m) { return error_of(absl::InvalidArgumentError(m)); }
PJRT_Error *unimplemented(void *) { return error_of(absl::UnimplementedError("the XLA:CPU test plugin does not have this function")); }

#define ASSIGN(lhs, expr)                                \
  auto lhs##_or = (expr);                                \
  if (!lhs##_or.ok()) return error_of(lhs##_or.status()); \
  auto &lhs = *lhs##_or
#define CHECKED(expr) \
  if (PJRT_Error *e = (expr)) return e
#define ENTRY(name) PJRT_Error *name##_(name##_Args *a)
#define OUT_TEXT(field, text) (a->field = (text).data(), a->field##_size = (text).size())

// Indexed by PJRT_Buffer_Type.
const xla::PrimitiveType kTypes[] = {
    xla::PRIMITIVE_TYPE_INVALID, xla::PRED, xla::S8, xla::S16, xla::S32, xla::S64, xla::U8, xla::U16, xla::U32, xla::U64,
    xla::F16, xla::F32, xla::F64, xla::BF16, xla::C64, xla::C128, xla::F8E5M2, xla::F8E4M3FN, xla::F8E4M3B11FNUZ,
    xla::F8E5M2FNUZ, xla::F8E4M3FNUZ, xla::S4, xla::U4, xla::TOKEN, xla::S2, xla::U2, xla::F8E4M3, xla::F8E3M4,
    xla::F8E8M0FNU, xla::F4E2M1FN};
constexpr size_t kNumTypes = sizeof kTypes / sizeof *kTypes;
static_assert(kNumTypes == PJRT_Buffer_Type_F4E2M1FN + 1, "one entry per PJRT_Buffer_Type");

PJRT_Buffer_Type type_of(xla::PrimitiveType t) {
  for (size_t i = 0; i < kNumTypes; i++)
    if (kTypes[i] == t) return static_cast<PJRT_Buffer_Type>(i);
  return PJRT_Buffer_Type_INVALID;
}

PJRT_Error *type_from(PJRT_Buffer_Type t, xla::PrimitiveType *out) {
  if (t <= PJRT_Buffer_Type_INVALID || static_cast<size_t>(t) >= kNumTypes) return invalid("unknown element type");
  *out = kTypes[t];
  return nullptr;
}

PJRT_NamedValue named(const char *name) {
  PJRT_NamedValue v;
  memset(&v, 0, sizeof v);
  v.struct_size = PJRT_NamedValue_STRUCT_SIZE;
  v.name = name;
  v.name_size = strlen(name);
  v.value_size = 1;
  return v;
}

// ---- errors, plugin, events ----
void PJRT_Error_Destroy_(PJRT_Error_Destroy_Args *a) { delete a->error; }
void PJRT_Error_Message_(PJRT_Error_Message_Args *a) { OUT_TEXT(message, a->error->message); }
ENTRY(PJRT_Error_GetCode) {
  a->code = static_cast<PJRT_Error_Code>(a->error->status.code());
  return nullptr;
}
ENTRY(PJRT_Plugin_Initialize) {
  (void)a;
  return nullptr;
}
ENTRY(PJRT_Plugin_Attributes) {
  static int64_t version[3];
  static const std::vector<PJRT_NamedValue> attributes = [] {
    sscanf(xla::GetDefaultStablehloVersion().c_str(), "%ld.%ld.%ld", &version[0], &version[1], &version[2]);
    PJRT_NamedValue v = named("stablehlo_current_version");
    v.type = PJRT_NamedValue_kInt64List;
    v.int64_array_value = version;
    v.value_size = 3;
    return std::vector<PJRT_NamedValue>{v};
  }();
  a->attributes = attributes.data();
  a->num_attributes = attributes.size();
  return nullptr;
}
ENTRY(PJRT_Event_Destroy) {
  delete a->event;
  return nullptr;
}
ENTRY(PJRT_Event_IsReady) {
  a->is_ready = a->event->future.IsReady();
  return nullptr;
}
ENTRY(PJRT_Event_Error) { return error_of(a->event->future.Await()); }
ENTRY(PJRT_Event_Await) { return error_of(a->event->future.Await()); }
ENTRY(PJRT_Event_OnReady) {
  auto callback = a->callback;
  void *arg = a->user_arg;
  a->event->future.OnReady([callback, arg](const absl::Status &s) { callback(error_of(s), arg); });
  return nullptr;
}

// ---- client and topology ----
// Serialised code runs on CPUs with the same features only, so they are part of the version that keys caches.
std::string platform_version() {
  std::ifstream f("/proc/cpuinfo");
  std::string line, flags;
  while (flags.empty() && std::getline(f, line))
    if (line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) flags = line;
  uint64_t h = 1469598103934665603u;  // FNV-1a
  for (unsigned char c : flags) h = (h ^ c) * 1099511628211u;
  char text[64];
  snprintf(text, sizeof text, "tensorflow-cpu %s, cpu %016lx", SYSTOLIC_WHEEL_VERSION, static_cast<unsigned long>(h));
  return text;
}

PJRT_Error *make_client(xla::CpuClientOptions options, std::unique_ptr<PJRT_Client> *out) {
  register_kernels();
  ASSIGN(made, xla::GetXlaPjrtCpuClient(std::move(options)));
  auto c = std::make_unique<PJRT_Client>();
  c->client = std::move(made);
  c->name = std::string(c->client->platform_name());
  c->version = platform_version();
  for (xla::PjRtMemorySpace *m : c->client->memory_spaces()) {
    c->owned_memories.emplace_back(new PJRT_Memory{m, std::string(m->kind())});
    c->memories.push_back(c->owned_memories.back().get());
  }
  c->topology = std::make_unique<PJRT_TopologyDescription>();
  c->topology->client = c.get();
  for (xla::PjRtDevice *d : c->client->devices()) {
    auto p = std::make_unique<PJRT_Device>();
    p->device = d;
    p->description = {d, std::string(d->device_kind()), std::string(d->DebugString()), std::string(d->ToString())};
    for (xla::PjRtMemorySpace *m : d->memory_spaces()) p->memories.push_back(c->find(m));
    auto memory = d->default_memory_space();
    if (memory.ok()) p->default_memory = c->find(*memory);
    c->devices.push_back(p.get());
    c->topology->descriptions.push_back(&p->description);
    c->owned_devices.push_back(std::move(p));
  }
  *out = std::move(c);
  return nullptr;
}

ENTRY(PJRT_Client_Create) {
  xla::CpuClientOptions o;
  o.cpu_device_count = 1;
  for (size_t i = 0; i < a->num_options; i++) {
    const PJRT_NamedValue &v = a->create_options[i];
    const std::string name(v.name, v.name_size);
    if (name == "cpu_device_count" && v.type == PJRT_NamedValue_kInt64 && v.int64_value >= 1 && v.int64_value <= 256)
      o.cpu_device_count = static_cast<int>(v.int64_value);
    else if (name == "asynchronous" && v.type == PJRT_NamedValue_kBool)
      o.asynchronous = v.bool_value;
    else
      return invalid("client option \"" + name + "\" is unknown or has a wrong value: cpu_device_count (1 to 256) and asynchronous (bool) exist");
  }
  std::unique_ptr<PJRT_Client> c;
  CHECKED(make_client(std::move(o), &c));
  a->client = c.release();
  return nullptr;
}
ENTRY(PJRT_Client_Destroy) {
  delete a->client;
  return nullptr;
}
ENTRY(PJRT_Client_PlatformName) {
  OUT_TEXT(platform_name, a->client->name);
  return nullptr;
}
ENTRY(PJRT_Client_PlatformVersion) {
  OUT_TEXT(platform_version, a->client->version);
  return nullptr;
}
ENTRY(PJRT_Client_ProcessIndex) {
  a->process_index = a->client->client->process_index();
  return nullptr;
}
ENTRY(PJRT_Client_TopologyDescription) {
  a->topology = a->client->topology.get();
  return nullptr;
}
ENTRY(PJRT_Client_Devices) {
  a->devices = a->client->devices.data();
  a->num_devices = a->client->devices.size();
  return nullptr;
}
ENTRY(PJRT_Client_AddressableDevices) {
  a->addressable_devices = a->client->devices.data();
  a->num_addressable_devices = a->client->devices.size();
  return nullptr;
}
ENTRY(PJRT_Client_LookupDevice) {
  for (PJRT_Device *d : a->client->devices)
    if (d->device->id() == a->id) {
      a->device = d;
      return nullptr;
    }
  return error_of(absl::NotFoundError("no device has this id"));
}
ENTRY(PJRT_Client_AddressableMemories) {
  a->addressable_memories = a->client->memories.data();
  a->num_addressable_memories = a->client->memories.size();
  return nullptr;
}
ENTRY(PJRT_Client_DefaultDeviceAssignment) {
  ASSIGN(assignment, a->client->client->GetDefaultDeviceAssignment(a->num_replicas, a->num_partitions));
  size_t n = 0;
  if (a->default_assignment_size < static_cast<size_t>(a->num_replicas) * a->num_partitions) return invalid("default_assignment is too small");
  for (int r = 0; r < a->num_replicas; r++)
    for (int p = 0; p < a->num_partitions; p++) a->default_assignment[n++] = static_cast<int>(assignment(r, p));
  return nullptr;
}

PJRT_Error *topology_by_name(const std::string &name, PJRT_TopologyDescription **out) {
  char *end = nullptr;
  const long n = name.rfind("cpu:", 0) == 0 ? strtol(name.c_str() + 4, &end, 10) : 0;
  if (n < 1 || n > 256 || *end) return invalid("topology \"" + name + "\" is unknown: cpu:1 to cpu:256 exist");
  xla::CpuClientOptions o;
  o.cpu_device_count = static_cast<int>(n);
  auto t = std::make_unique<PJRT_TopologyDescription>();
  CHECKED(make_client(std::move(o), &t->owned));
  t->client = t->owned.get();
  t->descriptions = t->client->topology->descriptions;
  *out = t.release();
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_Create) {
  if (a->num_options) return invalid("the topology takes no options");
  return topology_by_name(std::string(a->topology_name, a->topology_name_size), &a->topology);
}
ENTRY(PJRT_TopologyDescription_Destroy) {
  if (a->topology->owned) delete a->topology;  // a client's own goes with the client
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_PlatformName) {
  OUT_TEXT(platform_name, a->topology->client->name);
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_PlatformVersion) {
  OUT_TEXT(platform_version, a->topology->client->version);
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_GetDeviceDescriptions) {
  a->descriptions = a->topology->descriptions.data();
  a->num_descriptions = a->topology->descriptions.size();
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_Attributes) {
  a->attributes = nullptr;
  a->num_attributes = 0;
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_Serialize) {
  auto *s = new PJRT_SerializedTopology{"cpu:" + std::to_string(a->topology->descriptions.size())};
  a->serialized_topology = s;
  a->serialized_topology_deleter = [](PJRT_SerializedTopology *t) { delete t; };
  OUT_TEXT(serialized_bytes, s->bytes);
  return nullptr;
}
ENTRY(PJRT_TopologyDescription_Deserialize) {
  return topology_by_name(std::string(a->serialized_topology, a->serialized_topology_size), &a->topology);
}

// ---- devices and memories ----
ENTRY(PJRT_DeviceDescription_Id) {
  a->id = a->device_description->device->id();
  return nullptr;
}
ENTRY(PJRT_DeviceDescription_ProcessIndex) {
  a->process_index = a->device_description->device->process_index();
  return nullptr;
}
ENTRY(PJRT_DeviceDescription_Attributes) {
  a->attributes = nullptr;
  a->num_attributes = 0;
  return nullptr;
}
ENTRY(PJRT_DeviceDescription_Kind) {
  OUT_TEXT(device_kind, a->device_description->kind);
  return nullptr;
}
ENTRY(PJRT_DeviceDescription_DebugString) {
  OUT_TEXT(debug_string, a->device_description->debug);
  return nullptr;
}
ENTRY(PJRT_DeviceDescription_ToString) {
  OUT_TEXT(to_string, a->device_description->text);
  return nullptr;
}
ENTRY(PJRT_Device_GetDescription) {
  a->device_description = &a->device->description;
  return nullptr;
}
ENTRY(PJRT_Device_IsAddressable) {
  a->is_addressable = a->device->device->IsAddressable();
  return nullptr;
}
ENTRY(PJRT_Device_LocalHardwareId) {
  a->local_hardware_id = a->device->device->local_hardware_id().value();
  return nullptr;
}
ENTRY(PJRT_Device_AddressableMemories) {
  a->memories = a->device->memories.data();
  a->num_memories = a->device->memories.size();
  return nullptr;
}
ENTRY(PJRT_Device_DefaultMemory) {
  a->memory = a->device->default_memory;
  return a->memory ? nullptr : error_of(absl::NotFoundError("the device has no default memory"));
}
ENTRY(PJRT_Device_MemoryStats) {
  ASSIGN(s, a->device->device->GetAllocatorStats());
  a->bytes_in_use = s.bytes_in_use;
  a->peak_bytes_in_use = s.peak_bytes_in_use;
  a->peak_bytes_in_use_is_set = true;
  if ((a->bytes_limit_is_set = s.bytes_limit.has_value())) a->bytes_limit = *s.bytes_limit;
  return nullptr;
}
ENTRY(PJRT_Memory_Id) {
  a->id = a->memory->memory->id();
  return nullptr;
}
ENTRY(PJRT_Memory_Kind) {
  OUT_TEXT(kind, a->memory->kind);
  return nullptr;
}

// ---- compiling and executables ----
PJRT_Error *parse_options(const char *bytes, size_t n, xla::CompileOptions *out) {
  xla::CompileOptionsProto proto;
  if (n > INT32_MAX || !proto.ParseFromArray(bytes, static_cast<int>(n))) return invalid("the compile options are not a CompileOptionsProto");
  ASSIGN(options, xla::CompileOptions::FromProto(proto));
  *out = std::move(options);
  return nullptr;
}

// Parses the program and hands it to `compile` while its context lives.
template <class Compile>
PJRT_Error *with_module(const PJRT_Program *p, Compile compile) {
  if (std::string(p->format, p->format_size) != "mlir") return error_of(absl::UnimplementedError("only programs of format mlir (text or bytecode) are taken"));
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  const std::string code = typed_kernel_calls(std::string(p->code, p->code_size));
  ASSIGN(module, xla::ParseMlirModuleString(code, context));
  return compile(module.get());
}

PJRT_LoadedExecutable *wrap(std::unique_ptr<xla::PjRtLoadedExecutable> x, PJRT_Client *c) {
  auto *l = new PJRT_LoadedExecutable{std::move(x), c, {}, {}};
  for (xla::PjRtDevice *d : l->loaded->addressable_devices()) l->devices.push_back(c->find(d));
  return l;
}

ENTRY(PJRT_Client_Compile) {
  xla::CompileOptions options;
  CHECKED(parse_options(a->compile_options, a->compile_options_size, &options));
  return with_module(a->program, [&](mlir::ModuleOp m) -> PJRT_Error * {
    ASSIGN(x, a->client->client->CompileAndLoad(m, std::move(options)));
    a->executable = wrap(std::move(x), a->client);
    return nullptr;
  });
}
ENTRY(PJRT_Compile) {
  xla::CompileOptions options;
  CHECKED(parse_options(a->compile_options, a->compile_options_size, &options));
  return with_module(a->program, [&](mlir::ModuleOp m) -> PJRT_Error * {
    ASSIGN(x, a->topology->client->client->CompileAndLoad(m, std::move(options)));
    auto *e = new PJRT_Executable{};
    e->loaded = std::move(x);
    e->executable = e->loaded->GetExecutable();
    e->name = std::string(e->executable->name());
    a->executable = e;
    return nullptr;
  });
}
ENTRY(PJRT_Executable_DeserializeAndLoad) {
  std::optional<xla::CompileOptions> options;
  if (a->struct_size >= PJRT_Executable_DeserializeAndLoad_Args_STRUCT_SIZE && a->overridden_serialized_compile_options) {
    options.emplace();
    CHECKED(parse_options(a->overridden_serialized_compile_options, a->overridden_serialized_compile_options_size, &*options));
  }
  ASSIGN(x, a->client->client->LoadSerializedExecutable(absl::string_view(a->serialized_executable, a->serialized_executable_size), std::move(options), xla::LoadOptions()));
  a->loaded_executable = wrap(std::move(x), a->client);
  return nullptr;
}
ENTRY(PJRT_Executable_Serialize) {
  ASSIGN(bytes, a->executable->executable->SerializeExecutable());
  auto *s = new PJRT_SerializedExecutable{std::move(bytes)};
  a->serialized_executable = s;
  a->serialized_executable_deleter = [](PJRT_SerializedExecutable *x) { delete x; };
  OUT_TEXT(serialized_bytes, s->bytes);
  return nullptr;
}
ENTRY(PJRT_Executable_OptimizedProgram) {
  ASSIGN(modules, a->executable->executable->GetHloModules());
  if (modules.size() != 1) return error_of(absl::UnimplementedError("several HLO modules"));
  const std::string text = modules[0]->ToProto().SerializeAsString();
  PJRT_Program *p = a->program;
  p->format = "hlo";
  p->format_size = 3;
  if (p->code) {
    if (p->code_size < text.size()) return invalid("code_size is too small");
    memcpy(p->code, text.data(), text.size());
  }
  p->code_size = text.size();
  return nullptr;
}
ENTRY(PJRT_Executable_Destroy) {
  delete a->executable;
  return nullptr;
}
ENTRY(PJRT_Executable_Name) {
  OUT_TEXT(executable_name, a->executable->name);
  return nullptr;
}
ENTRY(PJRT_Executable_NumReplicas) {
  a->num_replicas = a->executable->executable->num_replicas();
  return nullptr;
}
ENTRY(PJRT_Executable_NumPartitions) {
  a->num_partitions = a->executable->executable->num_partitions();
  return nullptr;
}
PJRT_Error *load_outputs(PJRT_Executable *x) {
  if (x->have_outputs) return nullptr;
  ASSIGN(types, x->executable->GetOutputElementTypes());
  ASSIGN(dims, x->executable->GetOutputDimensions());
  for (xla::PrimitiveType t : types[0]) x->output_types.push_back(type_of(t));
  for (auto &d : dims[0]) {
    x->output_ranks.push_back(d.size());
    x->output_dims.insert(x->output_dims.end(), d.begin(), d.end());
  }
  x->have_outputs = true;
  return nullptr;
}
ENTRY(PJRT_Executable_NumOutputs) {
  CHECKED(load_outputs(a->executable));
  a->num_outputs = a->executable->output_types.size();
  return nullptr;
}
ENTRY(PJRT_Executable_OutputElementTypes) {
  CHECKED(load_outputs(a->executable));
  a->output_types = a->executable->output_types.data();
  a->num_output_types = a->executable->output_types.size();
  return nullptr;
}
ENTRY(PJRT_Executable_OutputDimensions) {
  CHECKED(load_outputs(a->executable));
  a->num_outputs = a->executable->output_ranks.size();
  a->dims = a->executable->output_dims.data();
  a->dim_sizes = a->executable->output_ranks.data();
  return nullptr;
}
ENTRY(PJRT_Executable_SizeOfGeneratedCodeInBytes) {
  a->size_in_bytes = a->executable->executable->SizeOfGeneratedCodeInBytes();
  return nullptr;
}
ENTRY(PJRT_Executable_GetCostAnalysis) {
  PJRT_Executable *x = a->executable;
  if (!x->have_cost) {
    if (!x->loaded) return unimplemented(nullptr);
    ASSIGN(costs, x->loaded->GetCostAnalysis());
    x->cost_names.reserve(costs.size());
    for (auto &[name, value] : costs)
      if (const float *f = std::get_if<float>(&value)) {
        x->cost_names.push_back(name);
        PJRT_NamedValue v = named(x->cost_names.back().c_str());
        v.type = PJRT_NamedValue_kFloat;
        v.float_value = *f;
        x->cost.push_back(v);
      }
    x->have_cost = true;
  }
  a->properties = x->cost.data();
  a->num_properties = x->cost.size();
  return nullptr;
}
ENTRY(PJRT_Executable_GetCompiledMemoryStats) {
  ASSIGN(s, a->executable->executable->GetCompiledMemoryStats());
  a->generated_code_size_in_bytes = s.generated_code_size_in_bytes;
  a->argument_size_in_bytes = s.argument_size_in_bytes;
  a->output_size_in_bytes = s.output_size_in_bytes;
  a->alias_size_in_bytes = s.alias_size_in_bytes;
  a->temp_size_in_bytes = s.temp_size_in_bytes;
  if (a->struct_size >= PJRT_Executable_GetCompiledMemoryStats_Args_STRUCT_SIZE) {
    a->peak_memory_in_bytes = s.peak_memory_in_bytes;
    a->total_size_in_bytes = s.total_size_in_bytes;
  }
  return nullptr;
}
ENTRY(PJRT_Executable_Fingerprint) {
  ASSIGN(f, a->executable->executable->FingerprintExecutable());
  a->executable->fingerprint = f;
  OUT_TEXT(executable_fingerprint, a->executable->fingerprint);
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_Fingerprint) {
  ASSIGN(f, a->executable->loaded->FingerprintExecutable());
  a->executable->fingerprint = f;
  OUT_TEXT(executable_fingerprint, a->executable->fingerprint);
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_Destroy) {
  delete a->executable;
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_Delete) {
  a->executable->loaded->Delete();
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_IsDeleted) {
  a->is_deleted = a->executable->loaded->IsDeleted();
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_GetExecutable) {
  auto *x = new PJRT_Executable{};
  x->loaded = a->loaded_executable->loaded;
  x->executable = x->loaded->GetExecutable();
  x->name = std::string(x->executable->name());
  a->executable = x;
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_AddressableDevices) {
  a->addressable_devices = a->executable->devices.data();
  a->num_addressable_devices = a->executable->devices.size();
  return nullptr;
}
ENTRY(PJRT_LoadedExecutable_Execute) {
  xla::ExecuteOptions o;
  if (a->options) {
    o.launch_id = a->options->launch_id;
    for (size_t i = 0; i < a->options->num_non_donatable_input_indices; i++)
      o.non_donatable_input_indices.insert(static_cast<int>(a->options->non_donatable_input_indices[i]));
  }
  std::vector<std::vector<xla::PjRtBuffer *>> in(a->num_devices);
  for (size_t d = 0; d < a->num_devices; d++)
    for (size_t i = 0; i < a->num_args; i++) in[d].push_back(a->argument_lists[d][i]->buffer.get());
  std::vector<std::vector<std::unique_ptr<xla::PjRtBuffer>>> out;
  std::optional<std::vector<xla::Future<>>> done;
  if (a->device_complete_events) done.emplace();
  if (a->execute_device) {
    if (a->num_devices != 1) return invalid("execute_device needs the arguments of one device");
    std::optional<xla::Future<>> one;
    ASSIGN(r, a->executable->loaded->ExecuteSharded(in[0], a->execute_device->device, o, one, done.has_value()));
    out.push_back(std::move(r));
    if (done) done->push_back(*one);
  } else {
    ASSIGN(r, a->executable->loaded->Execute(in, o, done));
    out = std::move(r);
  }
  for (size_t d = 0; d < out.size(); d++) {
    for (size_t i = 0; i < out[d].size(); i++) a->output_lists[d][i] = new PJRT_Buffer{std::move(out[d][i]), a->executable->client};
    if (done) a->device_complete_events[d] = new PJRT_Event{(*done)[d]};
  }
  return nullptr;
}

// ---- buffers ----
ENTRY(PJRT_Client_BufferFromHostBuffer) {
  xla::PrimitiveType type;
  CHECKED(type_from(a->type, &type));
  if (!a->memory && !a->device) return invalid("neither a device nor a memory is given");
  xla::PjRtMemorySpace *m = a->memory ? a->memory->memory : a->device->default_memory->memory;
  std::optional<absl::Span<const int64_t>> strides;
  if (a->num_byte_strides) strides = absl::Span<const int64_t>(a->byte_strides, a->num_byte_strides);
  auto [promise, future] = xla::MakePromise<>();
  auto shared = std::make_shared<xla::Promise<>>(std::move(promise));
  ASSIGN(b, a->client->client->BufferFromHostBuffer(
                a->data, type, absl::Span<const int64_t>(a->dims, a->num_dims), strides,
                static_cast<xla::PjRtClient::HostBufferSemantics>(a->host_buffer_semantics),
                [shared]() { shared->Set(absl::OkStatus()); }, m, nullptr));
  a->buffer = new PJRT_Buffer{std::move(b), a->client};
  a->done_with_host_buffer = new PJRT_Event{std::move(future)};
  return nullptr;
}
ENTRY(PJRT_Client_CreateUninitializedBuffer) {
  xla::PrimitiveType type;
  CHECKED(type_from(a->shape_element_type, &type));
  if (!a->memory && !a->device) return invalid("neither a device nor a memory is given");
  xla::PjRtMemorySpace *m = a->memory ? a->memory->memory : a->device->default_memory->memory;
  ASSIGN(b, a->client->client->CreateUninitializedBuffer(
                xla::ShapeUtil::MakeShape(type, absl::Span<const int64_t>(a->shape_dims, a->shape_num_dims)), m));
  a->buffer = new PJRT_Buffer{std::move(b), a->client};
  return nullptr;
}
ENTRY(PJRT_Buffer_Destroy) {
  delete a->buffer;
  return nullptr;
}
ENTRY(PJRT_Buffer_ElementType) {
  a->type = type_of(a->buffer->buffer->element_type());
  return nullptr;
}
ENTRY(PJRT_Buffer_Dimensions) {
  auto d = a->buffer->buffer->dimensions();
  a->dims = d.data();
  a->num_dims = d.size();
  return nullptr;
}
ENTRY(PJRT_Buffer_OnDeviceSizeInBytes) {
  ASSIGN(n, a->buffer->buffer->GetOnDeviceSizeInBytes());
  a->on_device_size_in_bytes = n;
  return nullptr;
}
ENTRY(PJRT_Buffer_Device) {
  a->device = a->buffer->client->find(a->buffer->buffer->device());
  return nullptr;
}
ENTRY(PJRT_Buffer_Memory) {
  a->memory = a->buffer->client->find(a->buffer->buffer->memory_space());
  return nullptr;
}
ENTRY(PJRT_Buffer_Delete) {
  a->buffer->buffer->Delete();
  return nullptr;
}
ENTRY(PJRT_Buffer_IsDeleted) {
  a->is_deleted = a->buffer->buffer->IsDeleted();
  return nullptr;
}
ENTRY(PJRT_Buffer_IsOnCpu) {
  a->is_on_cpu = a->buffer->buffer->IsOnCpu();
  return nullptr;
}
ENTRY(PJRT_Buffer_ReadyEvent) {
  a->event = new PJRT_Event{a->buffer->buffer->GetReadyFuture()};
  return nullptr;
}
ENTRY(PJRT_Buffer_UnsafePointer) {
  ASSIGN(p, a->buffer->client->client->UnsafeBufferPointer(a->buffer->buffer.get()));
  a->buffer_pointer = p;
  return nullptr;
}
ENTRY(PJRT_Buffer_CopyToDevice) {
  ASSIGN(b, a->buffer->buffer->CopyToMemorySpace(a->dst_device->default_memory->memory));
  a->dst_buffer = new PJRT_Buffer{std::move(b), a->buffer->client};
  return nullptr;
}
ENTRY(PJRT_Buffer_CopyRawToHost) {
  a->event = new PJRT_Event{a->buffer->buffer->CopyRawToHost(a->dst, a->offset, a->transfer_size)};
  return nullptr;
}
ENTRY(PJRT_Buffer_ToHostBuffer) {
  xla::PjRtBuffer *b = a->src->buffer.get();
  const xla::Shape shape = xla::ShapeUtil::MakeShape(b->element_type(), b->dimensions());
  const size_t n = static_cast<size_t>(xla::ShapeUtil::ByteSizeOf(shape));
  if (!a->dst) {
    a->dst_size = n;
    return nullptr;
  }
  if (a->dst_size < n) return invalid("dst_size is too small: " + std::to_string(n) + " bytes are needed");
  auto literal = std::make_shared<xla::MutableBorrowingLiteral>(static_cast<const char *>(a->dst), shape);
  xla::Future<> f = b->ToLiteral(literal.get());
  f.OnReady([literal](const absl::Status &) {});  // keeps it until the copy is done
  a->event = new PJRT_Event{f};
  return nullptr;
}

PJRT_Api make_api() {
  PJRT_Api api;
  auto fallback = &unimplemented;
  for (size_t o = offsetof(PJRT_Api, PJRT_Error_Destroy); o + sizeof fallback <= sizeof api; o += sizeof fallback)
    memcpy(reinterpret_cast<char *>(&api) + o, &fallback, sizeof fallback);
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  api.extension_start = nullptr;
  api.pjrt_api_version = {PJRT_Api_Version_STRUCT_SIZE, nullptr, PJRT_API_MAJOR, PJRT_API_MINOR};
#define SET(name) api.name = name##_
  SET(PJRT_Error_Destroy);
  SET(PJRT_Error_Message);
  SET(PJRT_Error_GetCode);
  SET(PJRT_Plugin_Initialize);
  SET(PJRT_Plugin_Attributes);
  SET(PJRT_Event_Destroy);
  SET(PJRT_Event_IsReady);
  SET(PJRT_Event_Error);
  SET(PJRT_Event_Await);
  SET(PJRT_Event_OnReady);
  SET(PJRT_Client_Create);
  SET(PJRT_Client_Destroy);
  SET(PJRT_Client_PlatformName);
  SET(PJRT_Client_PlatformVersion);
  SET(PJRT_Client_ProcessIndex);
  SET(PJRT_Client_TopologyDescription);
  SET(PJRT_Client_Devices);
  SET(PJRT_Client_AddressableDevices);
  SET(PJRT_Client_LookupDevice);
  SET(PJRT_Client_AddressableMemories);
  SET(PJRT_Client_DefaultDeviceAssignment);
  SET(PJRT_Client_Compile);
  SET(PJRT_Client_BufferFromHostBuffer);
  SET(PJRT_Client_CreateUninitializedBuffer);
  SET(PJRT_TopologyDescription_Create);
  SET(PJRT_TopologyDescription_Destroy);
  SET(PJRT_TopologyDescription_PlatformName);
  SET(PJRT_TopologyDescription_PlatformVersion);
  SET(PJRT_TopologyDescription_GetDeviceDescriptions);
  SET(PJRT_TopologyDescription_Attributes);
  SET(PJRT_TopologyDescription_Serialize);
  SET(PJRT_TopologyDescription_Deserialize);
  SET(PJRT_Compile);
  SET(PJRT_DeviceDescription_Id);
  SET(PJRT_DeviceDescription_ProcessIndex);
  SET(PJRT_DeviceDescription_Attributes);
  SET(PJRT_DeviceDescription_Kind);
  SET(PJRT_DeviceDescription_DebugString);
  SET(PJRT_DeviceDescription_ToString);
  SET(PJRT_Device_GetDescription);
  SET(PJRT_Device_IsAddressable);
  SET(PJRT_Device_LocalHardwareId);
  SET(PJRT_Device_AddressableMemories);
  SET(PJRT_Device_DefaultMemory);
  SET(PJRT_Device_MemoryStats);
  SET(PJRT_Memory_Id);
  SET(PJRT_Memory_Kind);
  SET(PJRT_Executable_Destroy);
  SET(PJRT_Executable_Name);
  SET(PJRT_Executable_NumReplicas);
  SET(PJRT_Executable_NumPartitions);
  SET(PJRT_Executable_NumOutputs);
  SET(PJRT_Executable_OutputElementTypes);
  SET(PJRT_Executable_OutputDimensions);
  SET(PJRT_Executable_SizeOfGeneratedCodeInBytes);
  SET(PJRT_Executable_GetCostAnalysis);
  SET(PJRT_Executable_GetCompiledMemoryStats);
  SET(PJRT_Executable_OptimizedProgram);
  SET(PJRT_Executable_Serialize);
  SET(PJRT_Executable_Fingerprint);
  SET(PJRT_Executable_DeserializeAndLoad);
  SET(PJRT_LoadedExecutable_Destroy);
  SET(PJRT_LoadedExecutable_Delete);
  SET(PJRT_LoadedExecutable_IsDeleted);
  SET(PJRT_LoadedExecutable_GetExecutable);
  SET(PJRT_LoadedExecutable_AddressableDevices);
  SET(PJRT_LoadedExecutable_Execute);
  SET(PJRT_LoadedExecutable_Fingerprint);
  SET(PJRT_Buffer_Destroy);
  SET(PJRT_Buffer_ElementType);
  SET(PJRT_Buffer_Dimensions);
  SET(PJRT_Buffer_OnDeviceSizeInBytes);
  SET(PJRT_Buffer_Device);
  SET(PJRT_Buffer_Memory);
  SET(PJRT_Buffer_Delete);
  SET(PJRT_Buffer_IsDeleted);
  SET(PJRT_Buffer_IsOnCpu);
  SET(PJRT_Buffer_ReadyEvent);
  SET(PJRT_Buffer_UnsafePointer);
  SET(PJRT_Buffer_CopyToDevice);
  SET(PJRT_Buffer_CopyRawToHost);
  SET(PJRT_Buffer_ToHostBuffer);
#undef SET
  return api;
}

}  // namespace

// TensorFlow's libraries print a notice while they initialise, and XLA warns about CPU features of code that was compiled on
// this very machine, several kilobytes each time. build.sh links with -z initfirst, so that this comes before the libraries'
// own initialisers; all it touches there is a constant-initialised level.
__attribute__((constructor)) static void be_quiet() {
  if (!getenv("SYSTOLIC_PJRT_LOG")) absl::SetMinLogLevel(absl::LogSeverityAtLeast::kFatal);
}

extern "C" __attribute__((visibility("default"))) const PJRT_Api *GetPjrtApi() {
  static const PJRT_Api api = make_api();
  return &api;
}
