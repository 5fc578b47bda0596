#include "model/presets.h"

#include <string.h>
#include <strings.h>

/* X(symbol, name, parameters). The counts are those of the transformers classes built without weights; of Qwen3-Omni, the thinker
 * with its head (talker and code2wav are not served). Router correction biases are buffers and are not counted. */
#define PRESETS(X) \
    X(deepseek_r1, "DeepSeek-R1", 671026404352) \
    X(deepseek_v3, "DeepSeek-V3", 671026404352) \
    X(deepseek_v3_1, "DeepSeek-V3.1", 671026404352) \
    X(gemma_3_27b_it, "gemma-3-27b-it", 27432406640) \
    X(gemma_3_4b_it, "gemma-3-4b-it", 4300079472) \
    X(gpt_oss_120b, "gpt-oss-120b", 116829156672) \
    X(gpt_oss_20b, "gpt-oss-20b", 20914757184) \
    X(kimi_k2_instruct, "Kimi-K2-Instruct", 1026408209408) \
    X(kimi_k2_thinking, "Kimi-K2-Thinking", 1026408209408) \
    X(llama_3_1_8b, "Llama-3.1-8B", 8030261248) \
    X(llama_3_1_8b_instruct, "Llama-3.1-8B-Instruct", 8030261248) \
    X(llama_3_2_1b_instruct, "Llama-3.2-1B-Instruct", 1235814400) \
    X(llama_3_3_70b_instruct, "Llama-3.3-70B-Instruct", 70553706496) \
    X(llama_4_maverick_17b_128e_instruct, "Llama-4-Maverick-17B-128E-Instruct", 401583781376) \
    X(llama_4_scout_17b_16e_instruct, "Llama-4-Scout-17B-16E-Instruct", 108641793536) \
    X(llama_guard_4_12b, "Llama-Guard-4-12B", 12001097216) \
    X(qwen2_5_vl_3b_instruct, "Qwen2.5-VL-3B-Instruct", 3754622976) \
    X(qwen2_5_vl_7b_instruct, "Qwen2.5-VL-7B-Instruct", 8292166656) \
    X(qwen3_0_6b, "Qwen3-0.6B", 596049920) \
    X(qwen3_30b_a3b, "Qwen3-30B-A3B", 30532122624) \
    X(qwen3_32b, "Qwen3-32B", 32762123264) \
    X(qwen3_4b, "Qwen3-4B", 4022468096) \
    X(qwen3_coder_480b_a35b_instruct, "Qwen3-Coder-480B-A35B-Instruct", 480154875392) \
    X(qwen3_omni_30b_a3b_instruct, "Qwen3-Omni-30B-A3B-Instruct", 31719205488)

/* The files go into the read-only data as they are, each followed by a zero. */
#define PRESET_EMBED(symbol, name, n)                                \
    __asm__(".section .rodata\n"                                     \
            "preset_" #symbol ":\n"                                  \
            ".incbin \"model/presets/" name ".json\"\n"              \
            ".byte 0\n"                                              \
            ".previous\n");                                          \
    extern const char preset_##symbol[] __attribute__((visibility("hidden")));
PRESETS(PRESET_EMBED)

#define PRESET_ENTRY(symbol, name, n) { name, preset_##symbol, n },
static const preset presets[] = { PRESETS(PRESET_ENTRY) };
enum { N_PRESETS = sizeof presets / sizeof *presets };

const preset *preset_at(int i) { return i >= 0 && i < N_PRESETS ? &presets[i] : NULL; }

const preset *preset_find(const char *name)
{
    for (int i = 0; i < N_PRESETS; i++)
        if (strcasecmp(presets[i].name, name) == 0) return &presets[i];
    return NULL;
}

status preset_config(const preset *p, jv **out) { return jv_parse(p->json, strlen(p->json), out); }
