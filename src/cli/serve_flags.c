/* The flags of `systolic serve`: vLLM's, and ours at the end. This table is what help, docs/cli.md and the parser know. */
#include "cli/serve.h"

#include <string.h>

#include "base/mem.h"

/* Schemes that an unquantised checkpoint can be brought to while it loads: graph/quant.h. */
#define QUANT_ONLINE "int8|int8_weight_only|int8_per_channel_weight_only|int8_g32|int8_g32_weight_only|int4|int4_weight_only|int4_g128|int4_g128_weight_only|int4_g32|int4_g32_weight_only|fp8|fp8_per_channel"
/* How checkpoints may be quantised already: model/quantization.c. */
#define QUANT_STORED_NAMES "awq|auto_awq|awq_marlin|gptq|auto_gptq|gptq_marlin|compressed-tensors|modelopt|mxfp4|gpt_oss_mxfp4"

/* vLLM's names of back ends. */
#define ATTENTION_VLLM "PALLAS|FLASH_ATTN|FLASH_ATTN_MLA|TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1|FLASHINFER|FLASHINFER_MLA|TRITON_ATTN|TRITON_MLA|FLASHMLA|CUTLASS_MLA|FLEX_ATTENTION|TORCH_SDPA|CPU_ATTN|TREE_ATTN|ROCM_ATTN|ROCM_AITER_FA|CUSTOM"

/* name, alias, group, kind, support, default, choices, supported choices, help */
static const flag_def defs[] = {
#undef G
#define G "ModelConfig"
    { "model", NULL, G, FLAG_STR, FLAG_YES, "Qwen/Qwen3-0.6B", NULL, NULL, "Hugging Face id or local directory of the model." },
    { "runner", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|generate|pooling|draft", "auto|generate", "What the model is used for." },
    { "convert", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|none|embed|classify", "auto|none", "Turns a generative model into a pooling one." },
    { "tokenizer", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Directory or id of the tokenizer; the model's own by default." },
    { "tokenizer-mode", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|hf|slow|mistral|deepseek_v32|deepseek_v4|kimi_k3|cohere|inkling", "auto|hf", "How the tokenizer is loaded." },
    { "tokenizer-revision", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Revision of the tokenizer on the hub." },
    { "revision", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Branch, tag or commit of the model on the hub." },
    { "code-revision", NULL, G, FLAG_STR, FLAG_IGNORED, NULL, NULL, NULL, "Revision of the model's code, which is never run here." },
    { "hf-token", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Token for the hub; HF_TOKEN otherwise." },
    { "hf-config-path", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Another place for config.json." },
    { "hf-overrides", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Values that replace those of config.json." },
    { "trust-remote-code", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Code of a model is never run here." },
    { "dtype", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|half|float16|bfloat16|float|float32", NULL, "Type of weights and KV cache; auto: as the checkpoint, float16 for one in float32." },
    { "seed", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Seed of the engine's random numbers." },
    { "max-model-len", NULL, G, FLAG_INT, FLAG_YES, NULL, "auto", NULL, "Context length, prompt and output; from the model's configuration by default." },
    { "quantization", "-q", G, FLAG_STR, FLAG_YES, NULL, QUANT_ONLINE "|" QUANT_STORED_NAMES "|modelopt_fp4|modelopt_mxfp8|modelopt_mixed|experts_int8|quark|moe_wna16|torchao|inc|deepseek_v4_fp8|online|humming|fp8_per_tensor|fp8_per_block|nvfp4_per_token|mxfp8", QUANT_ONLINE "|" QUANT_STORED_NAMES, "Quantises the weights of linear layers while loading, or names how the checkpoint is quantised, which need not be given (docs/quantization.md)." },
    { "quantization-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Quantisation per kind of layer." },
    { "enforce-eager", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "No graph capture." },
    { "served-model-name", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Names the API answers to; the first is echoed." },
    { "max-logprobs", NULL, G, FLAG_INT, FLAG_YES, "20", NULL, NULL, "Most logprobs a request may ask for; -1 = the vocabulary." },
    { "logprobs-mode", NULL, G, FLAG_STR, FLAG_YES, "raw_logprobs", "raw_logprobs|processed_logprobs|raw_logits|processed_logits", NULL, "What logprobs are taken from." },
    { "generation-config", NULL, G, FLAG_STR, FLAG_YES, "auto", NULL, NULL, "auto: generation_config.json gives default sampling values; vllm: none; or a directory." },
    { "override-generation-config", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Values that replace those of the generation config." },
    { "skip-tokenizer-init", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Token ids in, token ids out." },
    { "enable-prompt-embeds", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Embeddings as prompts." },
    { "disable-sliding-window", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "No sliding-window attention." },
    { "disable-cascade-attn", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "No cascade attention." },
    { "model-impl", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|vllm|transformers|terratorch", "auto|vllm", "Which implementation of the model." },
    { "logits-processors", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "Python logits processors." },
    { "io-processor-plugin", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Python IO processor." },
    { "renderer-num-workers", NULL, G, FLAG_INT, FLAG_YES, "4", NULL, NULL, "Threads that parse, tokenise and render requests." },
    { "allowed-local-media-path", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Directory that requests may read media from." },
    { "allowed-media-domains", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Hosts that requests may fetch media from." },
    { "config-format", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|hf|mistral", "auto|hf", "Format of the configuration." },
    { "enable-sleep-mode", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Sleep mode." },
    { "sleep-mode-backend", NULL, G, FLAG_STR, FLAG_IGNORED, "cumem", NULL, NULL, "Memory backend of sleep mode." },
    { "enable-return-routed-experts", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Experts chosen per token in the answer." },
#undef G
#define G "LoadConfig"
    { "load-format", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|hf|safetensors|pt|npcache|dummy|mistral|sharded_state|tensorizer|fastsafetensors|instanttensor|ipc_cache|modelexpress|runai_streamer|runai_streamer_sharded", "auto|hf|safetensors|dummy", "Where weights come from; dummy makes them up." },
    { "download-dir", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Cache directory of downloads." },
    { "safetensors-load-strategy", NULL, G, FLAG_STR, FLAG_IGNORED, "lazy", "lazy|eager|prefetch|torchao", NULL, "How safetensors are read." },
    { "safetensors-prefetch-num-threads", NULL, G, FLAG_INT, FLAG_IGNORED, NULL, NULL, NULL, "Threads of the prefetch strategy." },
    { "safetensors-prefetch-block-size", NULL, G, FLAG_INT, FLAG_IGNORED, NULL, NULL, NULL, "Block of the prefetch strategy." },
    { "model-loader-extra-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Settings of a loader." },
    { "ignore-patterns", NULL, G, FLAG_LIST, FLAG_YES, "original/**/*", NULL, NULL, "Files not to download." },
    { "use-tqdm-on-load", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Progress while downloading." },
    { "pt-load-map-location", NULL, G, FLAG_STR, FLAG_IGNORED, "cpu", NULL, NULL, "Device of .pt checkpoints." },
#undef G
#define G "StructuredOutputsConfig"
    { "structured-outputs-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Backend and options of structured outputs." },
    { "reasoning-parser", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Splits reasoning from the answer." },
    { "reasoning-parser-plugin", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Python reasoning parser." },
    { "reasoning-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Settings of reasoning." },
    { "reasoning-effort-map", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Renames effort levels for a template." },
#undef G
#define G "ParallelConfig"
    { "tensor-parallel-size", "-tp", G, FLAG_INT, FLAG_YES, "1", NULL, NULL, "Devices that each layer is split over (tpu, cuda and pjrt devices)." },
    { "pipeline-parallel-size", "-pp", G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Groups the layers are split into." },
    { "data-parallel-size", "-dp", G, FLAG_INT, FLAG_YES, "1", NULL, NULL, "Replicas on simulated chips, each on as many devices as --tensor-parallel-size says; a request goes to the one that is least busy." },
    { "data-parallel-size-local", "-dpl", G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Replicas on this node." },
    { "data-parallel-rank", "-dpn", G, FLAG_INT, FLAG_NOT_YET, "0", NULL, NULL, "Rank of this replica." },
    { "data-parallel-start-rank", "-dpr", G, FLAG_INT, FLAG_NOT_YET, "0", NULL, NULL, "First rank on this node." },
    { "data-parallel-address", "-dpa", G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Address of the first node." },
    { "data-parallel-rpc-port", "-dpp", G, FLAG_INT, FLAG_IGNORED, "29550", NULL, NULL, "Port of the replicas." },
    { "data-parallel-backend", "-dpb", G, FLAG_STR, FLAG_IGNORED, "mp", "mp|ray", NULL, "Launcher of replicas." },
    { "data-parallel-external-lb", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "One endpoint per rank." },
    { "data-parallel-hybrid-lb", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "One endpoint per node." },
    { "data-parallel-multi-port-external-lb", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "One port per rank." },
    { "data-parallel-supervisor-port", NULL, G, FLAG_INT, FLAG_IGNORED, "9256", NULL, NULL, "Port of the supervisor." },
    { "enable-expert-parallel", "-ep", G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "The tensor parallel devices share out experts whole, instead of a part of each expert." },
    { "all2all-backend", NULL, G, FLAG_STR, FLAG_IGNORED, "allgather_reducescatter", NULL, NULL, "Library of expert exchange." },
    { "enable-eplb", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Balancing of experts." },
    { "eplb-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Settings of the balancing." },
    { "expert-placement-strategy", NULL, G, FLAG_STR, FLAG_IGNORED, "linear", "linear|round_robin", NULL, "Placement of experts." },
    { "decode-context-parallel-size", "-dcp", G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Parts the KV cache is split into." },
    { "prefill-context-parallel-size", "-pcp", G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Parts a prompt is split into." },
    { "cp-kv-cache-interleave-size", NULL, G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Interleaving of the split cache." },
    { "distributed-executor-backend", NULL, G, FLAG_STR, FLAG_YES, NULL, "uni|mp|ray|external_launcher", "uni|mp", "How workers are run; here they are threads." },
    { "nnodes", "-n", G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Nodes." },
    { "node-rank", "-r", G, FLAG_INT, FLAG_NOT_YET, "0", NULL, NULL, "Rank of this node." },
    { "master-addr", NULL, G, FLAG_STR, FLAG_IGNORED, "127.0.0.1", NULL, NULL, "Address of the first node." },
    { "master-port", NULL, G, FLAG_INT, FLAG_IGNORED, "29501", NULL, NULL, "Port of the first node." },
    { "numa-bind", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Pins to NUMA nodes." },
    { "numa-bind-nodes", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "NUMA nodes." },
    { "numa-bind-cpus", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "CPUs of the nodes." },
    { "enable-dbo", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Two batches overlapped." },
    { "ubatch-size", NULL, G, FLAG_INT, FLAG_NOT_YET, "0", NULL, NULL, "Micro-batch." },
    { "dbo-decode-token-threshold", NULL, G, FLAG_INT, FLAG_IGNORED, "32", NULL, NULL, "Threshold of the overlap." },
    { "dbo-prefill-token-threshold", NULL, G, FLAG_INT, FLAG_IGNORED, "512", NULL, NULL, "Threshold of the overlap." },
    { "max-parallel-loading-workers", NULL, G, FLAG_INT, FLAG_IGNORED, NULL, NULL, NULL, "Workers that load at once." },
    { "disable-custom-all-reduce", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "No custom all-reduce." },
    { "worker-cls", NULL, G, FLAG_STR, FLAG_NOT_YET, "auto", NULL, NULL, "Python worker class." },
    { "worker-extension-cls", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Python worker extension." },
    { "enable-elastic-ep", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Elastic expert parallelism." },
    { "enable-fault-tolerance", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Fault tolerance of replicas." },
    { "dp-sync-interval", NULL, G, FLAG_INT, FLAG_IGNORED, "16", NULL, NULL, "Steps between replicas' synchronisations." },
#undef G
#define G "CacheConfig"
    { "block-size", NULL, G, FLAG_INT, FLAG_YES, "16", NULL, NULL, "Tokens per KV block; on a TPU the attention policy chooses if it is not given." },
    { "gpu-memory-utilization", "device-memory-utilization", G, FLAG_NUM, FLAG_YES, "0.92", NULL, NULL, "Fraction of device memory to use; on a CPU VLLM_CPU_KVCACHE_SPACE decides." },
    { "kv-cache-memory-bytes", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Size of the KV cache." },
    { "kv-cache-dtype", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|float16|bfloat16|float32|fp8|fp8_e4m3|fp8_e5m2|int8_per_token_head|fp8_per_token_head|fp8_ds_mla|nvfp4_ds_mla", "auto|float16|bfloat16|float32|fp8|fp8_e4m3|fp8_e5m2|int8_per_token_head",
      "Type of the KV cache (docs/performance.md has their errors); auto is the model's, or fp8 where the checkpoint was made for that (kv_cache_scheme, kv_cache_quant_algo)." },
    { "calculate-kv-scales", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Scales of an fp8 KV cache from the first tokens, which vLLM has no more; those of the checkpoint are used." },
    { "kv-cache-dtype-skip-layers", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "Layers with another type of cache." },
    { "num-gpu-blocks-override", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Number of KV blocks, for testing." },
    { "enable-prefix-caching", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Reuse of the KV of common prefixes." },
    { "prefix-caching-hash-algo", NULL, G, FLAG_STR, FLAG_YES, "sha256", "sha256|sha256_cbor|xxhash|xxhash_cbor", NULL, "Hash of blocks; sha256 is sha256_cbor here." },
    { "prefix-match-unit", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "Hits finer than a block." },
    { "prefix-cache-retention-interval", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "Retention of cached blocks." },
    { "kv-offloading-size", NULL, G, FLAG_NUM, FLAG_NOT_YET, NULL, NULL, NULL, "GiB of KV cache in host memory." },
    { "kv-offloading-backend", NULL, G, FLAG_STR, FLAG_IGNORED, "native", "native|lmcache", NULL, "Backend of the offloading." },
    { "kv-sharing-fast-prefill", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Prefill of models that share KV." },
    { "mamba-cache-dtype", NULL, G, FLAG_STR, FLAG_IGNORED, "auto", NULL, NULL, "Cache of Mamba layers." },
    { "mamba-ssm-cache-dtype", NULL, G, FLAG_STR, FLAG_IGNORED, "auto", NULL, NULL, "Cache of Mamba layers." },
    { "mamba-block-size", NULL, G, FLAG_INT, FLAG_IGNORED, NULL, NULL, NULL, "Cache of Mamba layers." },
    { "swa-bounded-replay", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Replay of sliding windows." },
#undef G
#define G "OffloadConfig"
    { "cpu-offload-gb", NULL, G, FLAG_NUM, FLAG_NOT_YET, "0", NULL, NULL, "GiB of weights in host memory." },
    { "offload-backend", NULL, G, FLAG_STR, FLAG_IGNORED, "auto", NULL, NULL, "Backend of weight offloading." },
#undef G
#define G "MultiModalConfig"
    { "limit-mm-per-prompt", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Most images and sounds of a prompt, by kind: {\"image\": 4}." },
    { "language-model-only", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "No media." },
    { "mm-processor-kwargs", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Settings of the media processor, as in {\"max_pixels\": 1003520}." },
    { "media-io-kwargs", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "How media are read: {\"image\": {\"rgba_background_color\": [0, 0, 0]}}." },
    { "mm-processor-cache-gb", NULL, G, FLAG_NUM, FLAG_YES, "4", NULL, NULL, "GiB of encoders' outputs that are kept for when the same image or sound comes again." },
    { "mm-processor-cache-type", NULL, G, FLAG_STR, FLAG_IGNORED, "lru", "lru|shm", NULL, "Kind of that cache." },
    { "mm-hasher-algorithm", NULL, G, FLAG_STR, FLAG_IGNORED, "blake3", "blake3|sha256|sha512", NULL, "Hash of media." },
    { "mm-encoder-tp-mode", NULL, G, FLAG_STR, FLAG_IGNORED, "weights", "weights|data", NULL, "Parallelism of the encoder." },
    { "skip-mm-profiling", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "No profiling of media." },
    { "interleave-mm-strings", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Placeholders where media stand." },
    { "enable-mm-embeds", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Media embeddings as input." },
    { "video-pruning-rate", NULL, G, FLAG_NUM, FLAG_NOT_YET, "0", NULL, NULL, "Pruning of video tokens." },
    { "trust-request-mm-kwargs", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Requests may bring mm_processor_kwargs and media_io_kwargs of their own." },
#undef G
#define G "LoRAConfig"
    { "enable-lora", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "LoRA adapters." },
    { "max-loras", NULL, G, FLAG_INT, FLAG_IGNORED, "1", NULL, NULL, "Adapters per batch." },
    { "max-lora-rank", NULL, G, FLAG_INT, FLAG_IGNORED, "16", "1|8|16|32|64|128|256|320|512", NULL, "Largest rank." },
    { "max-cpu-loras", NULL, G, FLAG_INT, FLAG_IGNORED, NULL, NULL, NULL, "Adapters in host memory." },
    { "lora-dtype", NULL, G, FLAG_STR, FLAG_IGNORED, "auto", NULL, NULL, "Type of adapters." },
    { "fully-sharded-loras", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Adapters split over devices." },
    { "lora-target-modules", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "Modules with adapters." },
    { "default-mm-loras", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Adapters by modality." },
    { "enable-tower-connector-lora", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Adapters on the encoder." },
    { "specialize-active-lora", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Graphs per number of adapters." },
#undef G
#define G "ObservabilityConfig"
    { "show-hidden-metrics-for-version", NULL, G, FLAG_STR, FLAG_IGNORED, NULL, NULL, NULL, "Old metrics." },
    { "otlp-traces-endpoint", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "OpenTelemetry collector." },
    { "collect-detailed-traces", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Modules to trace." },
    { "kv-cache-metrics", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Lifetimes of KV blocks." },
    { "kv-cache-metrics-sample", NULL, G, FLAG_NUM, FLAG_IGNORED, "0.01", NULL, NULL, "Sampling of those." },
    { "custom-histogram-buckets", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Bounds of the histograms in /metrics." },
    { "enable-mfu-metrics", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Estimated FLOPs." },
    { "enable-logging-iteration-details", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "A log line per step." },
    { "cudagraph-metrics", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "CUDA graphs." },
    { "per-request-spec-decode-metrics", NULL, G, FLAG_STR, FLAG_IGNORED, "none", "none|summary|detailed", NULL, "Speculation data in answers." },
#undef G
#define G "SchedulerConfig"
    { "max-num-batched-tokens", NULL, G, FLAG_INT, FLAG_YES, "2048", NULL, NULL, "Tokens per step." },
    { "max-num-scheduled-tokens", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "Scheduled tokens per step." },
    { "max-num-seqs", NULL, G, FLAG_INT, FLAG_YES, "128", NULL, NULL, "Sequences per step." },
    { "max-num-active-seqs", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Admission limit below max-num-seqs." },
    { "max-num-queued-reqs", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Requests that may wait; more are answered 503." },
    { "max-num-queued-tokens", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Prompt tokens that may wait; more are answered 503." },
    { "max-num-partial-prefills", NULL, G, FLAG_INT, FLAG_IGNORED, "1", NULL, NULL, "Prompts prefilled in pieces at once." },
    { "max-long-partial-prefills", NULL, G, FLAG_INT, FLAG_IGNORED, "1", NULL, NULL, "Long ones among them." },
    { "long-prefill-token-threshold", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Most tokens per step of one prompt while others wait." },
    { "long-prefill-token-threshold-adaptive", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "That threshold chosen by load." },
    { "enable-chunked-prefill", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Prompts in pieces." },
    { "disable-chunked-mm-input", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Media items in one piece." },
    { "scheduling-policy", NULL, G, FLAG_STR, FLAG_YES, "fcfs", "fcfs|priority", NULL, "Order of requests." },
    { "async-scheduling", NULL, G, FLAG_BOOL, FLAG_YES, "auto", NULL, NULL, "Schedules the next step while one runs." },
    { "scheduler-reserve-full-isl", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Admits a prompt only if all of it fits." },
    { "watermark", NULL, G, FLAG_NUM, FLAG_YES, "0.0", NULL, NULL, "Fraction of blocks kept free at admission." },
    { "prefill-schedule-interval", NULL, G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "Steps between prefills." },
    { "stream-interval", NULL, G, FLAG_INT, FLAG_YES, "1", NULL, NULL, "Tokens per streamed chunk, at least." },
    { "scheduler-cls", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Python scheduler." },
    { "disable-hybrid-kv-cache-manager", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "One kind of KV block." },
#undef G
#define G "SpeculativeConfig"
    { "speculative-config", "-sc", G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Speculative decoding." },
    { "spec-method", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Method of speculation." },
    { "spec-model", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Draft model." },
    { "spec-tokens", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "Drafted tokens." },
#undef G
#define G "VllmConfig"
    { "kv-transfer-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "KV transfer between instances." },
    { "kv-events-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "KV events." },
    { "ec-transfer-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Encoder cache transfer." },
    { "compilation-config", "-cc", G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Of it pass_config.enable_sequence_parallelism is read; the rest is vLLM's compiler's." },
    { "optimization-level", "-O", G, FLAG_STR, FLAG_IGNORED, "2", "0|1|2|3", NULL, "Optimisation level." },
    { "attention-config", "-ac", G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Of it backend is read, as --attention-backend; the rest is other back ends'." },
    { "attention-backend", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|mosaic|stablehlo|" ATTENTION_VLLM, "auto|mosaic|stablehlo|PALLAS|FLASH_ATTN|FLASH_ATTN_MLA|TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1", "How attention runs on TPUs: kernels (mosaic; PALLAS and FLASH_ATTN are the same here) or StableHLO; auto: kernels where the chip has them (docs/attention.md)." },
    { "kernel-config", NULL, G, FLAG_JSON, FLAG_IGNORED, NULL, NULL, NULL, "Kernels." },
    { "profiler-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Profiler." },
    { "watchdog-config", NULL, G, FLAG_JSON, FLAG_IGNORED, NULL, NULL, NULL, "Watchdog." },
    { "weight-transfer-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Weight transfer for training." },
    { "pooler-config", NULL, G, FLAG_JSON, FLAG_NOT_YET, NULL, NULL, NULL, "Pooling." },
    { "additional-config", NULL, G, FLAG_JSON, FLAG_IGNORED, NULL, NULL, NULL, "Platform settings." },
    { "performance-mode", NULL, G, FLAG_STR, FLAG_IGNORED, "balanced", "balanced|interactivity|throughput", NULL, "Tuning preset." },
#undef G
#define G "Frontend"
    { "host", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Address; all interfaces by default." },
    { "port", NULL, G, FLAG_INT, FLAG_YES, "8000", NULL, NULL, "Port; 0 picks one." },
    { "uds", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Unix socket instead of host and port." },
    { "headless", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "No API server." },
    { "api-server-count", "-asc", G, FLAG_INT, FLAG_NOT_YET, "1", NULL, NULL, "API processes." },
    { "grpc", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "gRPC server." },
    { "grpc-port", NULL, G, FLAG_INT, FLAG_IGNORED, NULL, NULL, NULL, "Port of gRPC." },
    { "api-key", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Keys that /v1 asks for; VLLM_API_KEY otherwise." },
    { "allowed-origins", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Origins that browsers may call from (CORS)." },
    { "allowed-methods", NULL, G, FLAG_LIST, FLAG_YES, "*", NULL, NULL, "Methods they may use." },
    { "allowed-headers", NULL, G, FLAG_LIST, FLAG_YES, "*", NULL, NULL, "Headers they may send." },
    { "allow-credentials", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Whether they may send cookies." },
    { "ssl-keyfile", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Key, PEM." },
    { "ssl-certfile", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Certificate, PEM: turns TLS on." },
    { "ssl-ca-certs", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Authorities for client certificates." },
    { "ssl-cert-reqs", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Client certificates: 0 none, 1 optional, 2 required." },
    { "ssl-ciphers", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "TLS ciphers." },
    { "enable-ssl-refresh", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Reload of changed certificates." },
    { "root-path", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Path that a proxy puts before ours." },
    { "middleware", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "Python middleware." },
    { "disable-fastapi-docs", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "No /docs, /redoc and /openapi.json." },
    { "enable-offline-docs", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Docs without a network; ours need none." },
    { "enable-request-id-headers", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "X-Request-Id in answers." },
    { "uvicorn-log-level", NULL, G, FLAG_STR, FLAG_YES, "info", "critical|error|warning|info|debug|trace", NULL, "Level of the access log." },
    { "disable-uvicorn-access-log", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "No access log." },
    { "disable-access-log-for-endpoints", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Paths without access log, comma-separated." },
    { "h11-max-incomplete-event-size", NULL, G, FLAG_INT, FLAG_YES, "4194304", NULL, NULL, "Largest request head." },
    { "h11-max-header-count", NULL, G, FLAG_INT, FLAG_YES, "256", NULL, NULL, "Most headers." },
    { "enable-log-requests", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "A line per request." },
    { "enable-log-outputs", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "A line per answer." },
    { "enable-log-deltas", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "A line per chunk, with enable-log-outputs." },
    { "max-log-len", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Longest logged text, characters." },
    { "disable-log-stats", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "No periodic line." },
    { "aggregate-engine-logging", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "One line for all engines." },
    { "enable-prompt-tokens-details", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "cached_tokens in usage." },
    { "enable-force-include-usage", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Usage in every stream." },
    { "enable-per-request-metrics", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Timing in answers." },
    { "enable-server-load-tracking", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "/load counts requests." },
    { "enable-tokenizer-info-endpoint", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "GET /tokenizer_info." },
    { "return-tokens-as-token-ids", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "token_id:N as token strings in logprobs." },
    { "sse-keep-alive-interval", NULL, G, FLAG_NUM, FLAG_YES, "0", NULL, NULL, "Seconds between comments on silent streams." },
    { "fingerprint-mode", NULL, G, FLAG_STR, FLAG_YES, "full", "full|hash|custom|none", NULL, "system_fingerprint." },
    { "fingerprint-value", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "That of fingerprint-mode custom." },
    { "tokens-only", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Token routes only." },
    { "enable-scale-out", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Token-in, token-out routes." },
    { "chat-template", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File with a chat template, or the template." },
    { "chat-template-content-format", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|string|openai", NULL, "Form of message contents for the template." },
    { "default-chat-template-kwargs", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Template variables for every request." },
    { "trust-request-chat-template", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Requests may bring a template." },
    { "response-role", NULL, G, FLAG_STR, FLAG_YES, "assistant", NULL, NULL, "Role of the answer." },
    { "lora-modules", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "LoRA adapters to load." },
    { "enable-auto-tool-choice", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Tool calls chosen by the model." },
    { "tool-call-parser", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Parser of tool calls." },
    { "tool-parser-plugin", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Python tool parser." },
    { "tool-strict-level", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, "auto|function|parameter", NULL, "Grammar for tool calls." },
    { "exclude-tools-when-tool-choice-none", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "No tools in the prompt with tool_choice none." },
    { "tool-server", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "MCP tools." },
    { "shutdown-timeout", NULL, G, FLAG_NUM, FLAG_YES, "0", NULL, NULL, "Seconds that open requests get after SIGTERM." },
    { "log-level", NULL, G, FLAG_STR, FLAG_YES, NULL, "debug|info|warning|error", NULL, "Level of the log; VLLM_LOGGING_LEVEL otherwise." },
    { "logging-config", NULL, G, FLAG_STR, FLAG_YES, "text", "text|json", NULL, "Lines as text or JSON." },
    { "log-config-file", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "Python logging configuration." },
    { "log-error-stack", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Stack traces in the log." },
#undef G
#define G "Systolic"
    { "device", NULL, G, FLAG_STR, FLAG_YES, "auto", NULL, NULL, "Where the model runs: auto (cpu), cpu, tpu, cuda, pjrt:PATH[?NAME=VALUE,...], or chips that are simulated: sim:v6e-8, sim:v6e:2x4, sim:v6e-8?speed=0 (as fast as possible)." },
    { "attention-policy", NULL, G, FLAG_STR, FLAG_YES, "auto", "auto|table", NULL, "How attention is fitted to the TPU: auto = by a cost model, table = as vLLM's adaptive back end does (docs/attention.md). KV pages follow it unless --block-size is given." },
    { "quantized-activations", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Rounds activations where a quantised checkpoint wants it (W8A8); off = its weights alone are quantised." },
    { "weight-cache", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Folder of packed weights, so that a model's second start maps them (cpu); off = none; default ~/.cache/systolic/weights." },
    { "sim-refine", NULL, G, FLAG_STR, FLAG_YES, "none", "none|libtpu|libtpu-static", NULL, "Simulated chips: libtpu compiles the programs of steps for them, no TPU is needed, and its estimates take the place of the operations' own costs. libtpu-static has the finished code profiled, which takes minutes." },
    { "program-cache", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Folder of compiled programs, read and written (tpu, cuda, pjrt, --sim-refine); default ~/.cache/systolic/programs." },
    { "lazy-compile", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Compiles a program when a step first needs it, not before the server is ready (tpu, cuda, pjrt, --sim-refine)." },
    { "threads", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Compute threads; 0 = one per available core." },
    { "step-time-target", NULL, G, FLAG_NUM, FLAG_YES, "50", NULL, NULL, "Milliseconds: while others decode, prompts are cut into chunks such that a step takes about this long; 0 = not." },
    { "isa", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Forces kernels: portable, avx2, avx512 (float32 arithmetic), avx512_bf16 (bfloat16 dot products), avx512_amx (tiles), avx512_amx_emulated (their bits, slowly); by default the fastest, measured once." },
#undef G
};

const flag_set serve_flags = {
    .prog = "systolic serve", .summary = "Serves a model over HTTP with OpenAI's API.", .defs = defs, .n_defs = (int)(sizeof defs / sizeof *defs),
    .positional = "model_tag", .positional_flag = "model", .config = true,
};

status serve_flags_with(const flag_def *own, int n_own, bool frontend, flag_def **table, int *n)
{
    flag_def *all = mem_array((size_t)(n_own + serve_flags.n_defs), sizeof *all);
    if (!all) return err_nomem();
    int count = 0;
    for (; count < n_own; count++) all[count] = own[count];
    for (int i = 0; i < serve_flags.n_defs; i++) {
        bool taken = !frontend && strcmp(defs[i].group, "Frontend") == 0;
        for (int k = 0; k < n_own; k++) taken |= strcmp(own[k].name, defs[i].name) == 0;
        if (!taken) all[count++] = defs[i];
    }
    *table = all;
    *n = count;
    return ST_OK;
}
