"""The monitor in a Hugging Face accelerate loop: on one process or several, on any device it picks.

    python examples/accelerate_loop.py
    torchrun --nproc-per-node 2 examples/accelerate_loop.py

Each process watches the rows that its loader hands it; all of them call `row`, and the first prints.
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from darp import PseudoLabelMonitor

ROWS, CLASSES, EPOCHS = 600, 5, 3


def main() -> None:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([16.0, 8, 4, 2, 1]), ROWS, replacement=True, generator=generator)
    images = torch.randn(ROWS, 20, generator=generator) + 2 * functional.one_hot(labels, 20)
    torch.manual_seed(0)
    model = nn.Linear(20, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.arange(ROWS), images), batch_size=50, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    few = (images[:20].to(accelerator.device), labels[:20].to(accelerator.device))
    monitor = PseudoLabelMonitor(ROWS, CLASSES, labels)
    for epoch in range(EPOCHS):
        for index, batch in loader:
            logits = model(batch)
            monitor.update(index, logits.softmax(1))
            sure = logits.softmax(1).max(1).values.detach() > 0.95
            unlabeled = functional.cross_entropy(logits, logits.argmax(1), reduction="none")
            loss = functional.cross_entropy(model(few[0]), few[1]) + (unlabeled * sure).mean()
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        row = monitor.row()  # by all processes
        accelerator.print(
            f"epoch {epoch}  seen {row['pseudo/coverage']:.0%}  guesses right {row['pseudo/orig/accuracy']:.3f}  "
            f"distance to the truth {row['pseudo/orig/tv_true']:.3f}"
        )


if __name__ == "__main__":
    main()
