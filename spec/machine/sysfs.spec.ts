import { describe, expect, test } from "vitest";
import { EBUSY, EINVAL, ENODEV, ENOENT } from "../../lib/abi/errno.ts";
import { writeSysfs } from "../../lib/machine/sysfs.ts";
import type { VfioHost } from "../../lib/vfio/host.ts";
import { A, B, B2, deviceAt, fakeHost, OTHER } from "../vfio/fake-host.ts";

const DRIVERS = "/sys/bus/pci/drivers";
const DEVICES = "/sys/bus/pci/devices";

const driverOf = (host: VfioHost, address: string) => host.functions.get(address)!.driver;

describe("module parameters", () => {
  test("every spelling of true and false; numbers; anything else is EINVAL and changes nothing", () => {
    const host = fakeHost();
    const path = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    for (const text of ["Y", "y", "1", "on", "yes", "Y\n"]) {
      host.options.allow_unsafe_interrupts = false;
      expect([writeSysfs(host, path, text), host.options.allow_unsafe_interrupts]).toEqual([0, true]);
    }
    for (const text of ["N", "n", "0", "off", "no"]) {
      host.options.allow_unsafe_interrupts = true;
      expect([writeSysfs(host, path, text), host.options.allow_unsafe_interrupts]).toEqual([0, false]);
    }
    for (const text of ["", "2", "maybe"]) expect(writeSysfs(host, path, text)).toBe(-EINVAL);
    const limit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    expect([writeSysfs(host, limit, "4"), host.options.dma_entry_limit]).toEqual([0, 4]);
    expect([writeSysfs(host, limit, "0x10"), host.options.dma_entry_limit]).toEqual([0, 16]);
    expect([writeSysfs(host, limit, "x"), host.options.dma_entry_limit]).toEqual([-EINVAL, 16]);
  });

  test("files that are not there", () => {
    const host = fakeHost();
    for (const path of [
      "/sys/module/vfio/parameters/nothing",
      "/sys/module/other/parameters/nointxmask",
      "/sys/bus/pci/rescan",
      `${DEVICES}/0000:ff:00.0/driver_override`,
    ])
      expect(writeSysfs(host, path, "1")).toBe(-ENOENT);
  });
});

describe("drivers", () => {
  test("from vfio-pci to a host driver and back", () => {
    const host = fakeHost();
    expect(writeSysfs(host, `${DEVICES}/${B2}/driver/unbind`, B2)).toBe(0);
    expect(driverOf(host, B2)).toBeUndefined();
    expect(writeSysfs(host, `${DEVICES}/${B2}/driver/unbind`, B2)).toBe(-ENOENT);
    expect(writeSysfs(host, `${DRIVERS}/virtio-pci/bind`, B2)).toBe(0);
    expect(driverOf(host, B2)).toBe("virtio-pci");
    expect(writeSysfs(host, `${DRIVERS}/virtio-pci/bind`, B2)).toBe(-EBUSY);
    expect(writeSysfs(host, `${DRIVERS}/vfio-pci/unbind`, B2)).toBe(-ENODEV);
    expect(writeSysfs(host, `${DEVICES}/${B2}/driver_override`, "vfio-pci")).toBe(0);
    expect(writeSysfs(host, `${DRIVERS}/virtio-pci/unbind`, B2)).toBe(0);
    expect(writeSysfs(host, "/sys/bus/pci/drivers_probe", B2)).toBe(0);
    expect(driverOf(host, B2)).toBe("vfio-pci");
    expect(host.groups.get("2")!.devices.map(({ name }) => name)).toEqual([B, B2]);
  });

  test("an override keeps other drivers away; vfio-pci knows no device without one", () => {
    const host = fakeHost();
    expect(writeSysfs(host, `${DRIVERS}/vfio-pci/bind`, OTHER)).toBe(-ENODEV);
    writeSysfs(host, `${DEVICES}/${OTHER}/driver_override`, "vfio-pci");
    expect(writeSysfs(host, `${DRIVERS}/virtio-pci/bind`, OTHER)).toBe(-ENODEV);
    expect(writeSysfs(host, `${DRIVERS}/vfio-pci/bind`, OTHER)).toBe(0);
    expect([...host.groups.keys()]).toEqual(["1", "2", "3"]);
    expect(writeSysfs(host, `${DRIVERS}/vfio-pci/bind`, "0000:77:00.0")).toBe(-ENODEV);
  });

  test("a probe without an override, or of a function that has a driver, does nothing", () => {
    const host = fakeHost();
    expect(writeSysfs(host, "/sys/bus/pci/drivers_probe", OTHER)).toBe(0);
    expect(driverOf(host, OTHER)).toBeUndefined();
    const device = deviceAt(host, A);
    expect(writeSysfs(host, "/sys/bus/pci/drivers_probe", A)).toBe(0);
    expect(deviceAt(host, A)).toBe(device);
  });
});
