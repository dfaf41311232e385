"""A judge sharded over processes (FSDP2, as torchrun starts it), trained one step and saved.

``shard_script.py MODEL OUT RANK``: folders to load from and to save to, and the rank of the adapter
(0 trains the whole model). accelerate sets up FSDP on accelerators only, so this script shards with
torch's ``fully_shard`` itself and tells accelerate.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import get_peft_model
from torch.distributed.fsdp import fully_shard

from zoomiqa_core.training.policy import (
    LoraSettings,
    gathered_model,
    load_policy,
    lora_config,
    save_judge,
)
from zoomiqa_core.zoom_iqa.prompts import BUILTIN

if __name__ == "__main__":
    start, out, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    assert accelerator.num_processes == int(os.environ["EXPECTED_WORLD_SIZE"]), accelerator.state
    torch.manual_seed(0)
    model, processor = load_policy(start)
    adapter = lora_config(LoraSettings(rank=rank), model)
    if adapter is not None:
        model = get_peft_model(model, adapter)
    fully_shard(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    ids = torch.arange(20)[None]
    for _ in range(2):  # the first step of an adapter moves only one of its factors
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    held = sum(p.to_local().numel() for p in model.parameters())
    every = sum(p.numel() for p in model.parameters())
    assert held < 0.6 * every, (held, every)  # each process holds its part alone
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    whole = gathered_model(accelerator, model, out / "trained")
    if accelerator.is_main_process:
        save_judge(whole, processor, BUILTIN, out / "judge")
        torch.save({"logits": logits}, out / "logits.pt")
    accelerator.wait_for_everyone()
    accelerator.end_training()
