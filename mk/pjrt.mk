# The XLA:CPU plugin for PJRT: optional, for tests and for `--device pjrt:`. Needs g++, python3 and, once, the network.
.PHONY: pjrt-cpu
pjrt-cpu: $(B)/pjrt/libpjrt_cpu.so
$(B)/pjrt/libpjrt_cpu.so: tools/pjrt-cpu/plugin.cc tools/pjrt-cpu/build.sh tools/pjrt-cpu/wheel.txt tools/pjrt-cpu/abi_check.c src/device/pjrt/pjrt_abi.h tools/pjrt-cpu/stand-in/mlir/IR/BuiltinOps.h
	@tools/setup.sh pjrt
	@tools/pjrt-cpu/build.sh $@
