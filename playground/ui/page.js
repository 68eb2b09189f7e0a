() => {
  // What Gradio leaves out: names and states for screen readers, keys where it only listens to the mouse, and the clipboard.
  const announcer = document.createElement("div");
  announcer.setAttribute("role", "status");
  announcer.className = "sr";
  document.body.append(announcer);
  const say = (text) => { announcer.textContent = ""; requestAnimationFrame(() => { announcer.textContent = text; }); };

  const copyByHand = (text) => {
    const box = document.createElement("textarea");
    box.value = text;
    box.style.position = "fixed";
    box.style.opacity = "0";
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  };

  window.promptOrTune = {
    toggleSidebar() {
      const toggle = document.querySelector(".sidebar .toggle-button");
      if (toggle) toggle.click();
    },
    async copy(text, id) {
      if (!text) { say("Nothing to copy yet"); return; }
      try { await navigator.clipboard.writeText(text); } catch (error) { copyByHand(text); }
      say("Reply copied");
      const button = document.getElementById(id);
      if (!button) return;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    },
    // One press makes a file and takes it.
    take(file) {
      if (!file || !file.url) return;
      const link = document.createElement("a");
      link.href = file.url;
      link.download = file.orig_name || "";
      document.body.append(link);
      link.click();
      link.remove();
    },
    // What widgets hold after values came for some of them; a widget that a person has set since keeps its value.
    offered(before, offer, now) {
      const was = JSON.parse(before || "[]"), offered = JSON.parse(offer || "{}");
      const same = (a, b) => (a ?? "") === (b ?? "");
      const next = now.map((value, place) => {
        if (!(place in offered) || (place < was.length && !same(was[place], value))) return value;
        return (was[place] = offered[place]);
      });
      return [JSON.stringify(was), ...next];
    },
  };

  // A reason's link jumps to its figure. The page has a base address, so a plain link would load it anew.
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest(".verdict-body a[href^='#']");
    if (!link) return;
    event.preventDefault();
    const body = link.closest(".verdict-body");
    const there = body.querySelector("#" + CSS.escape(link.getAttribute("href").slice(1)));
    if (!there) return;
    for (let fold = there.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    for (const old of body.querySelectorAll(".v-here")) old.classList.remove("v-here");
    there.classList.add("v-here");
    there.tabIndex = -1;
    there.focus({ preventScroll: true });
    there.scrollIntoView({ block: "center" });
  });

  const label = () => {
    document.documentElement.lang = "en";
    for (const fold of document.querySelectorAll(".label-wrap")) {
      fold.setAttribute("aria-expanded", fold.classList.contains("open") ? "true" : "false");
    }
    for (const stamp of document.querySelectorAll(".thought-group .title")) {
      const arrow = stamp.querySelector(".arrow");
      const open = Boolean(arrow && /rotate\(0/.test(arrow.getAttribute("style") || ""));
      stamp.setAttribute("aria-expanded", open ? "true" : "false");
      stamp.setAttribute("aria-label", "How this reply was made: " + stamp.textContent.trim());
    }
    const sidebar = document.querySelector(".sidebar");
    if (sidebar) {
      const open = sidebar.classList.contains("open");
      sidebar.setAttribute("aria-label", "Device");
      const toggle = sidebar.querySelector(".toggle-button");
      if (toggle) {
        toggle.setAttribute("aria-label", open ? "Close the Device panel" : "Open the Device panel");
        toggle.setAttribute("aria-expanded", String(open));
      }
      const pill = document.getElementById("pill");
      if (pill) pill.setAttribute("aria-expanded", String(open));
      // A closed panel must not be reached with Tab.
      for (const part of sidebar.querySelectorAll(".sidebar-content")) part.inert = !open;
    }
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; label(); });
  };
  new MutationObserver(soon).observe(document.body, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["class", "style"],
  });
  label();

  document.addEventListener("keydown", (event) => {
    const stamp = event.target.closest && event.target.closest(".thought-group .title");
    if (stamp && event.key === " ") {
      event.preventDefault();
      stamp.click();
      return;
    }
    const tab = event.target.closest && event.target.closest("[role=tab]");
    if (tab && ["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) {
      const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
      const last = tabs.length - 1;
      const here = tabs.indexOf(tab);
      const next = { ArrowLeft: here ? here - 1 : last, ArrowRight: here < last ? here + 1 : 0, Home: 0, End: last }[event.key];
      event.preventDefault();
      tabs[next].focus();
      tabs[next].click();
    }
    if (event.key === "Escape" && window.innerWidth <= 768) {
      const sidebar = document.querySelector(".sidebar.open");
      if (sidebar) { window.promptOrTune.toggleSidebar(); document.getElementById("pill").focus(); }
    }
  });
}
