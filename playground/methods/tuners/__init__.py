"""PEFT methods of our own. They import PEFT and torch, so that the files beside this folder need not."""
