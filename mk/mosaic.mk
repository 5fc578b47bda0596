# Every Mosaic kernel in our interpreter and in a second one, in Python (tests/mosaic); needs the network once, for jax.
.PHONY: check-mosaic
check-mosaic: $(B)/bench/kernels $(B)/venv-mosaic/.done
	@$(B)/venv-mosaic/bin/python tests/mosaic/check.py --build $(B)
$(B)/venv-mosaic/.done: tests/mosaic/requirements.txt
	python3 -m venv $(B)/venv-mosaic
	$(B)/venv-mosaic/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@
