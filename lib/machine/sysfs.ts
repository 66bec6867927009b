/**
 * The files of sysfs through which the machine is changed from outside the program: drivers bound to PCI functions and
 * taken away, options of modules. Answers ≥ 0 or −errno, as the write(2) would.
 *
 * Missing: every other file (ENOENT); drivers other than vfio-pci accept every device, their identifiers are not known.
 */
import { EINVAL, ENODEV, ENOENT } from "../abi/errno.ts";
import type { ModuleOptions, PciFunction, VfioHost } from "../vfio/host.ts";

const PARAMETER = /^\/sys\/module\/(?:vfio|vfio_pci|vfio_pci_core|vfio_iommu_type1)\/parameters\/(\w+)$/;
const DRIVER = /^\/sys\/bus\/pci\/drivers\/([^/]+)\/(bind|unbind)$/;
const DEVICE = /^\/sys\/bus\/pci\/devices\/([^/]+)\/(driver\/unbind|driver_override)$/;
const PROBE = "/sys/bus/pci/drivers_probe";

/** Writes a value to a file of sysfs. */
export function writeSysfs(host: VfioHost, path: string, value: string): number {
  const text = value.trim();
  const parameter = PARAMETER.exec(path);
  if (parameter !== null) return setOption(host.options, parameter[1], text);
  const driver = DRIVER.exec(path);
  if (driver !== null) {
    const pciFunction = host.functions.get(text);
    if (pciFunction === undefined) return -ENODEV;
    return driver[2] === "bind" ? bind(host, pciFunction, driver[1]) : unbind(host, pciFunction, driver[1]);
  }
  const device = DEVICE.exec(path);
  if (device !== null) {
    const pciFunction = host.functions.get(device[1]);
    if (pciFunction === undefined) return -ENOENT;
    if (device[2] === "driver_override") {
      pciFunction.driverOverride = text;
      return 0;
    }
    // the link `driver` is there only while one is bound
    if (pciFunction.driver === undefined) return -ENOENT;
    return text === pciFunction.address ? host.unbind(pciFunction) : -ENODEV;
  }
  if (path === PROBE) {
    const pciFunction = host.functions.get(text);
    return pciFunction === undefined ? -ENODEV : probe(host, pciFunction);
  }
  return -ENOENT;
}

function bind(host: VfioHost, pciFunction: PciFunction, driver: string): number {
  const { driverOverride } = pciFunction;
  if (driverOverride === "" ? driver === "vfio-pci" : driverOverride !== driver) return -ENODEV;
  return host.bind(pciFunction, driver);
}

const unbind = (host: VfioHost, pciFunction: PciFunction, driver: string): number =>
  pciFunction.driver === driver ? host.unbind(pciFunction) : -ENODEV;

/** A function without a driver gets the one that it is meant for; a failing probe is no error of the write. */
function probe(host: VfioHost, pciFunction: PciFunction): number {
  if (pciFunction.driver === undefined && pciFunction.driverOverride !== "")
    host.bind(pciFunction, pciFunction.driverOverride);
  return 0;
}

function setOption(options: ModuleOptions, name: string, text: string): number {
  const old: unknown = (options as unknown as Record<string, unknown>)[name];
  if (old === undefined) return -ENOENT;
  const value = typeof old === "boolean" ? booleans[text.toLowerCase()] : wholeNumber(text);
  if (value === undefined) return -EINVAL;
  (options as unknown as Record<string, unknown>)[name] = value;
  return 0;
}

/** lib/kstrtox.c:kstrtobool (6.1), by whole words */
const booleans: Record<string, boolean | undefined> = {
  y: true,
  yes: true,
  "1": true,
  on: true,
  n: false,
  no: false,
  "0": false,
  off: false,
};

const wholeNumber = (text: string): number | undefined =>
  /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : undefined;
