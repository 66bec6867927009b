/** The list of answered requests is what the files answer: a null pointer is a fault, or worse, but never ENOTTY. */
import { expect, test } from "vitest";
import { ENOTTY } from "../../lib/abi/errno.ts";
import type { FileKind } from "../../lib/abi/ioctl.ts";
import { requestList } from "../../lib/abi/requests.ts";
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
} from "../../lib/abi/vfio.ts";
import { answeredRequests } from "../../lib/vfio/requests.ts";
import { Assigned } from "./assigned.ts";

/** A device opened by its group has no requests of the character device (recorded on 6.12). */
const byCharacterDevice = new Set<unknown>([
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
]);

test.each(["vfio-container", "vfio-group", "vfio-device"] as FileKind[])("%s", (kind) => {
  const answered = new Set<unknown>(answeredRequests[kind]);
  const wrong = requestList("x86_64")
    .filter(({ on }) => on.includes(kind))
    .filter(({ request }) => !byCharacterDevice.has(request))
    .flatMap(({ name, request }) => {
      const { process, container, group, fd } = new Assigned({
        image: { msix: { vectors: 2, bar: 0 } } as never,
      });
      const file = { "vfio-container": container, "vfio-group": group, "vfio-device": fd }[
        kind as "vfio-group"
      ];
      const known = process.ioctl(file, request, 0) !== -ENOTTY;
      return known === answered.has(request) ? [] : [`${name} is ${known ? "" : "not "}known`];
    });
  expect(wrong).toEqual([]);
});
