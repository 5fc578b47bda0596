# Systolic. `make run` serves the bundled model, `make check` tests; see README.md.
#   make             build/systolic
#   make check       everything users rely on, a few minutes
#   make check-asan check-tsan check-oom fuzz lint bench
# V=1 shows commands; B=DIR builds elsewhere; SAN=address,undefined or SAN=thread adds sanitizers.

B       ?= build
JOBS    ?= $(shell nproc 2>/dev/null || echo 1)
CC      := $(if $(filter default undefined,$(origin CC)),gcc,$(CC))
SAN     ?=
LAYERS  := base graph text grammar media http dist load mosaic tpu ops device model engine api cli
PKGS    := jansson libpcre2-8 libutf8proc libevent libevent_openssl libevent_pthreads libcurl libxxhash libcrypto libssl libjpeg libpng libwebp libwebpdemux sndfile
ARCH    := $(shell uname -m)

VERSION := $(shell cat VERSION)
WARN    := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wvla -Werror=implicit-function-declaration
# One FMA chain per output element is what makes results equal on every machine: never let the compiler contract or reorder.
CFLAGS  ?= -O2 -g
ALLCFLAGS = -std=c11 -D_GNU_SOURCE $(CFLAGS) $(WARN) -ffp-contract=off -fno-math-errno -ffunction-sections -fdata-sections -pthread -MMD -MP \
            -Isrc -Iinclude -I. -DSYSTOLIC_VERSION='"$(VERSION)"' $(PKG_CFLAGS) $(SANFLAGS) $(EXTRA)
SANFLAGS  = $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -DSYSTOLIC_SANITIZED=1)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LDLIBS    := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -ldl -pthread
LDFLAGS   += -Wl,--gc-sections $(SANFLAGS)

# Kernels for one instruction set live in files with that suffix and get its flags, and are left out on other machines.
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_avxvnni    := $(ISA_avx2) -mavxvnni
ISA_avx512fp16 := $(ISA_avx512) -mavx512fp16
ISA_amx        := $(ISA_avx512) -mamx-tile -mamx-bf16 -mamx-int8
ISA_neon       :=
X86_ISAS  := avx2 avx512 avx512bf16 avx512vnni avxvnni avx512fp16 amx
ARM_ISAS  := neon
FOREIGN   := $(if $(filter x86_64,$(ARCH)),$(ARM_ISAS),$(if $(filter aarch64 arm64,$(ARCH)),$(X86_ISAS),$(X86_ISAS) $(ARM_ISAS)))

# One short line per step; V=1 shows the commands.
say = $(if $(V),,@echo "  $(1)  $(2)";)

rwildcard = $(foreach d,$(wildcard $(1)*),$(call rwildcard,$(d)/,$(2)) $(filter $(subst *,%,$(2)),$(d)))
srcs      = $(filter-out $(foreach i,$(FOREIGN),%_$(i).c),$(sort $(call rwildcard,src/$(1)/,*.c)))
objs      = $(patsubst %.c,$(B)/%.o,$(call srcs,$(1)))
$(foreach l,$(LAYERS),$(eval deps_$(l) := $(shell sed -n 's/^$(l)://p' LAYERS)))
deps_of   = $(deps_$(1))
closure   = $(sort $(1) $(foreach d,$(call deps_of,$(1)),$(call closure,$(d))))
libs_of   = $(foreach d,$(call closure,$(1)),$(B)/lib$(d).a)

.PHONY: all unit run check venv check-asan check-tsan check-oom fuzz fuzzers soak bench lint clean
all: $(B)/systolic

MAIN := src/cli/main.c
$(B)/systolic: $(B)/src/cli/main.o $(foreach l,$(LAYERS),$(B)/lib$(l).a)
	$(call say,LD,$@)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)

define layer_rule
$(B)/lib$(1).a: $(filter-out $(B)/src/cli/main.o,$(call objs,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	@ar rcsD $$@ $$^
endef
$(foreach l,$(LAYERS),$(eval $(call layer_rule,$(l))))

isa_of = $(lastword $(subst _, ,$(basename $(notdir $(1)))))
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(ALLCFLAGS) $(ISA_$(call isa_of,$<)) -c -o $@ $<

$(B)/src/model/presets.o: $(wildcard src/model/presets/*.json)

# tests/unit/LAYER/test_*.c links with that layer and what it may use.
UNIT_SRCS := $(sort $(wildcard tests/unit/*/test_*.c))
UNIT_BINS := $(patsubst %.c,$(B)/%,$(UNIT_SRCS))
.SECONDEXPANSION:
.SECONDARY:
$(B)/tests/unit/%: $(B)/tests/unit/%.o $$(call libs_of,$$(subst /,,$$(dir $$*)))
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)

unit: $(UNIT_BINS)

# The README's two commands. Each installs what is missing first, so everything else runs in a second make that sees it.
run:
	@tools/setup.sh run
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@exec tools/run.sh

check:
	@tools/setup.sh check
	@$(MAKE) --no-print-directory -j$(JOBS) all unit venv
	@$(MAKE) --no-print-directory plugins
	@BUILD=$(B) tools/check.sh

# Python packages the API tests use as clients and oracles; never at run time.
venv: $(B)/venv/.done
$(B)/venv/.done: tests/requirements.txt
	@mkdir -p $(B)
	python3 -m venv $(B)/venv
	$(B)/venv/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

# The unit tests under sanitizers, each in its own build directory.
check-asan:
	@$(MAKE) --no-print-directory -j$(JOBS) B=build-asan SAN=address,undefined all unit
	@BUILD=build-asan UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 tools/check.sh unit
check-tsan:
	@$(MAKE) --no-print-directory -j$(JOBS) B=build-tsan SAN=thread all unit
	@BUILD=build-tsan TSAN_OPTIONS=halt_on_error=1 tools/check.sh unit
check-oom: all unit
	@BUILD=$(B) tools/check.sh oom

# Every parser of outside bytes; FUZZ_SECONDS is for each target.
FUZZ_SECONDS ?= 30
fuzz:
	@tools/setup.sh fuzz
	@$(MAKE) --no-print-directory -j$(JOBS) B=build-fuzz CC=clang SAN=address,undefined,fuzzer-no-link fuzzers
	@BUILD=build-fuzz FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) tools/fuzz.sh
FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
fuzzers: $(FUZZ_BINS)
$(B)/fuzz/%: $(B)/tests/fuzz/%.o $(foreach l,$(LAYERS),$(B)/lib$(l).a)
	@mkdir -p $(@D)
	@$(CC) -fsanitize=fuzzer,address,undefined -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)

# 64 streaming clients with disconnects, then 10,000 short requests: nothing wrong, nothing leaked.
soak: all
	@SECONDS=$(or $(SOAK_SECONDS),60) REQUESTS=$(or $(SOAK_REQUESTS),10000) python3 tests/soak.py --bin $(B)/systolic

# Figures, never part of check: prefill and decode beside the machine's limits (bench/*.py have more).
bench: all $(B)/bench/limits
	@python3 bench/cpu.py --build $(B)
$(B)/bench/%: bench/%.c $(foreach l,$(LAYERS),$(B)/lib$(l).a)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(ALLCFLAGS) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)

lint:
	@python3 tools/lint.py
	@$(MAKE) --no-print-directory -j$(JOBS) B=build-lint EXTRA=-Werror all unit

clean:
	rm -rf build build-asan build-tsan build-fuzz build-lint

-include $(shell find $(B) -name '*.d' 2>/dev/null)
-include $(wildcard mk/*.mk)
