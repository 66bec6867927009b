/**
 * What of the fuzzer is made with fast-check, a package of its own that the user brings (`npm install fast-check`):
 *
 * - `programs`, `guestPrograms`, `campaign`: random programs as data, run on two kernels whose answers are compared.
 * - `scheduled`: a program and its order as one arbitrary, which shrink together.
 */
export { type CampaignOptions, type CampaignResult, campaign, type Finding, programAt } from "./campaign.ts";
export { Scheduled, scheduled, turnChooser } from "./explore/fast-check.ts";
export { groupNames } from "./groups.ts";
export { type GuestKind, guestPrograms, usualGuests } from "./guest-programs.ts";
export { type Controllers, type ProgramOptions, programs } from "./programs.ts";
