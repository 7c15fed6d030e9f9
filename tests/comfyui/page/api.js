/** ComfyUI's way to its server: everything lies under the prefix /api of the folder that the page comes from. */
export const api = {
  apiURL: (route) => `${window.base ?? ''}/api${route}`,
  fetchApi(route, options) { return fetch(this.apiURL(route), options); },
};
