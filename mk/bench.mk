# Systolic beside llama.cpp, OpenVINO and transformers on this machine (docs/performance.md, "Beside others"). PEERS="--quick" and the like for
# bench/peers/run.py. The first time sets up the peers in ~/.cache/systolic/peers: about 20 minutes and 8 GB.
.PHONY: peers peers-test
peers: all $(B)/bench/limits
	@python3 bench/peers/run.py --build $(B) $(PEERS)

# What of it can be tested without the peers.
peers-test:
	@python3 bench/peers/run.py --self-test
