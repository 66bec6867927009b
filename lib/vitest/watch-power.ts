/**
 * A POWER processor's end of a XICS or XIVE. On XICS an interrupt is delivered when the presenter shows it; one that gives
 * way to another and is shown again is the same delivery until the guest accepts it (H_XIRR). On XIVE every event in one of
 * the processor's queues is a delivery. An edge while the last one is not ended is kept by its source, and comes after that.
 */
import { XICS_IPI, type Xics, type XicsPresenter } from "../hardware/xics.ts";
import type { XiveProcessor } from "../hardware/xive.ts";
import { hex, WatchedVcpu } from "./watched.ts";

abstract class WatchedPower extends WatchedVcpu {
  override nameOf(source: number): string {
    return source === XICS_IPI ? "the interrupt from another processor (2)" : `source ${hex(source)}`;
  }
}

export class WatchedXics extends WatchedPower {
  /** shown and not accepted */
  readonly #shown = new Set<number>();

  constructor(id: number, chip: Xics, presenter: XicsPresenter) {
    super(id);
    const show = (): void => {
      const { xisr } = presenter;
      if (xisr === 0 || this.#shown.has(xisr)) return;
      this.#shown.add(xisr);
      this.add(xisr);
    };
    const present = presenter.present.bind(presenter);
    presenter.present = (irq, priority) => {
      const displaced = present(irq, priority);
      show();
      return displaced;
    };
    const presentIpi = presenter.presentIpi.bind(presenter);
    presenter.presentIpi = () => {
      presentIpi();
      show();
    };
    const xirr = chip.xirr.bind(chip);
    chip.xirr = (accepting) => {
      if (accepting === presenter) this.#shown.delete(presenter.xisr);
      return xirr(accepting);
    };
  }

  protected override waits(source: number): boolean {
    return this.#shown.has(source);
  }
}

export class WatchedXive extends WatchedPower {
  readonly #processor: XiveProcessor;

  constructor(id: number, processor: XiveProcessor) {
    super(id);
    this.#processor = processor;
    const event = processor.event.bind(processor);
    processor.event = (priority, data) => {
      event(priority, data);
      this.add(data);
    };
  }

  protected override waits(source: number): boolean {
    return this.#processor.queues.some((queue) => queue.includes(source));
  }
}
