# Checkpoints of other sizes, seeds and media than the goldens', beside transformers (sets up torch once, 6 GB). ARGS: see tests/transformers/run.py.
.PHONY: check-transformers
check-transformers: all
	@python3 tests/transformers/run.py --bin $(B)/systolic $(ARGS)
