import pytest


@pytest.fixture(scope="module", params=["llama", "hf"])
def path(request):
    """Each of the two backends."""
    return str(request.param)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A Llama whose tokens are bytes."""
    from tests.engine.models import save_base

    return save_base("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def make_lora(tiny_base, tmp_path_factory):
    """(seed, rank, base, options of LoraConfig) -> a PEFT folder whose random A and B change what is said."""

    def make(seed, rank=4, base=None, **options):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base or tiny_base)
        config = {"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        peft = get_peft_model(model, LoraConfig(**(config | options)))
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path_factory.mktemp("adapters") / f"lora{seed}"
        peft.save_pretrained(folder)
        return folder

    return make
