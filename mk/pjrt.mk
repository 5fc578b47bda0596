# The XLA:CPU plugin for PJRT: optional, for tests and for `--device pjrt:`. Needs g++, python3 and, once, the network.
.PHONY: pjrt-cpu libtpu plugins
pjrt-cpu: $(B)/pjrt/libpjrt_cpu.so
$(B)/pjrt/libpjrt_cpu.so: tools/pjrt-cpu/plugin.cc tools/pjrt-cpu/kernels.cc tools/pjrt-cpu/kernels.h tools/pjrt-cpu/kernels_internal.h tools/pjrt-cpu/build.sh tools/pjrt-cpu/wheel.txt tools/pjrt-cpu/abi_check.c src/device/pjrt/pjrt_abi.h tools/pjrt-cpu/stand-in/mlir/IR/BuiltinOps.h
	@tools/setup.sh pjrt
	@tools/pjrt-cpu/build.sh $@

# libtpu, which compiles for every TPU generation without one: a Python package, found there by `systolic compile` and the tests.
libtpu: $(B)/venv/.libtpu
$(B)/venv/.libtpu: tests/requirements-tpu.txt $(B)/venv/.done
	$(B)/venv/bin/pip install -q --disable-pip-version-check --no-deps -r $<
	@touch $@

# What `make check` uses where it can be had; without it the tests that need it are skipped, visibly.
plugins:
	@$(MAKE) --no-print-directory pjrt-cpu || echo "no XLA:CPU plugin: the tests that need it will be skipped"
	@$(MAKE) --no-print-directory libtpu || echo "no libtpu: the tests that need it will be skipped"
