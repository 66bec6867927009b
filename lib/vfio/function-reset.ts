/**
 * Resetting a PCI function without losing what the host set up in it: its configuration is saved, the function reset,
 * the configuration restored, MSI and MSI-X with it (drivers/pci/pci.c:pci_reset_function, pci_save_state,
 * pci_restore_state, 6.1).
 *
 * Saved are the header and the control registers of PCI Express; everything else is as after the reset.
 */
import { ENOTTY } from "../abi/errno.ts";
import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL2,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_VERS,
  PCI_EXP_LNKCTL,
  PCI_PM_CAP_D1,
  PCI_PM_CAP_D2,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_PMC,
  PCI_STD_HEADER_SIZEOF,
} from "../abi/pci.ts";
import { load16, load32 } from "../abi/struct.ts";
import type { PciDevice } from "../hardware/pci-device.ts";
import type { HostIrqs } from "../kernel/irq.ts";

/** What a reset must not take: a copy of configuration space. */
export const saveState = (pci: PciDevice): Uint8Array => pci.config.slice();

/** Writes the saved registers back, the header from its end on, so that the command register comes last. */
export function restoreState(pci: PciDevice, saved: Uint8Array, irqs: HostIrqs): void {
  const exp = pci.expCapability;
  if (exp !== 0) {
    pci.writeConfig(exp + PCI_EXP_DEVCTL, 2, load16(saved, exp + PCI_EXP_DEVCTL));
    pci.writeConfig(exp + PCI_EXP_LNKCTL, 2, load16(saved, exp + PCI_EXP_LNKCTL));
    if ((load16(saved, exp + PCI_EXP_FLAGS) & PCI_EXP_FLAGS_VERS) !== 1)
      pci.writeConfig(exp + PCI_EXP_DEVCTL2, 2, load16(saved, exp + PCI_EXP_DEVCTL2));
  }
  for (let at = PCI_STD_HEADER_SIZEOF - 4; at >= 0; at -= 4) pci.writeConfig(at, 4, load32(saved, at));
  irqs.restore(pci);
}

/** Sets the power state as pci_set_power_state does: a state that the function does not have is left alone. */
export function setPowerState(pci: PciDevice, state: number): boolean {
  const at = pci.pmCapability;
  if (at === 0) return false;
  const can = load16(pci.config, at + PCI_PM_PMC);
  if (state === 1 && (can & PCI_PM_CAP_D1) === 0) return false;
  if (state === 2 && (can & PCI_PM_CAP_D2) === 0) return false;
  pci.writeConfig(
    at + PCI_PM_CTRL,
    2,
    (load16(pci.config, at + PCI_PM_CTRL) & ~PCI_PM_CTRL_STATE_MASK) | state,
  );
  return true;
}

/** The reset itself, by the first method that the function has: 0, or ENOTTY without any. */
export function resetHardware(pci: PciDevice): number {
  const [method] = pci.resetMethods;
  if (method === undefined) return -ENOTTY;
  if (method === "pm") {
    setPowerState(pci, 3);
    setPowerState(pci, 0);
  } else pci.reset();
  return 0;
}

/** pci_try_reset_function: 0, or ENOTTY where the function has no way to be reset. */
export function resetFunction(pci: PciDevice, irqs: HostIrqs): number {
  if (pci.resetMethods.length === 0) return -ENOTTY;
  setPowerState(pci, 0);
  const saved = saveState(pci);
  pci.writeConfig(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
  const result = resetHardware(pci);
  restoreState(pci, saved, irqs);
  return result;
}
